#include "grid.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace segkit {

namespace {

using Matrix = std::array<std::array<double, 3>, 3>;

/// The inverse of the transpose.
Matrix inverse_transpose(const Matrix& m) {
    Matrix cofactors;
    for (int r = 0; r < 3; ++r)
        for (int c = 0; c < 3; ++c)
            cofactors[r][c] = m[(r + 1) % 3][(c + 1) % 3] * m[(r + 2) % 3][(c + 2) % 3] -
                              m[(r + 1) % 3][(c + 2) % 3] * m[(r + 2) % 3][(c + 1) % 3];
    const double determinant = m[0][0] * cofactors[0][0] + m[0][1] * cofactors[0][1] + m[0][2] * cofactors[0][2];
    for (auto& row : cofactors)
        for (double& value : row) value /= determinant;
    return cofactors;
}

/// The rotation, or reflection, next to the directions of the axes: the polar factor, by Newton's iteration
/// (Higham 1986, doi:10.1137/0907079). Shear was refused, so a few steps are enough.
Matrix nearest_rotation(const Affine& affine) {
    const auto spacing = spacing_mm(affine);
    Matrix rotation;
    for (int r = 0; r < 3; ++r)
        for (int c = 0; c < 3; ++c) rotation[r][c] = affine[r][c] / spacing[c];
    for (int step = 0; step < 6; ++step) {
        const Matrix other = inverse_transpose(rotation);
        for (int r = 0; r < 3; ++r)
            for (int c = 0; c < 3; ++c) rotation[r][c] = (rotation[r][c] + other[r][c]) / 2;
    }
    return rotation;
}

double strongest(const Matrix& m, int column) {
    return std::max({std::fabs(m[0][column]), std::fabs(m[1][column]), std::fabs(m[2][column])});
}

}  // namespace

Canonical to_canonical(const Size& size, const Affine& affine) {
    Matrix rotation = nearest_rotation(affine);
    std::array<int, 3> axes{0, 1, 2};  // the clearest axis chooses first
    const Matrix whole = rotation;
    std::stable_sort(axes.begin(), axes.end(), [&](int a, int b) { return strongest(whole, a) > strongest(whole, b); });
    const Size file_stride{1, size[0], size[0] * size[1]};
    Canonical out{size, affine, file_stride, 0};
    for (const int axis : axes) {
        int target = 0;
        for (int row = 1; row < 3; ++row)
            if (std::fabs(rotation[row][axis]) > std::fabs(rotation[target][axis])) target = row;
        const int sign = rotation[target][axis] < 0 ? -1 : 1;
        rotation[target] = {0, 0, 0};  // a direction is given away once
        const std::ptrdiff_t last = size[axis] - 1;
        out.size[target] = size[axis];
        out.stride[target] = sign * file_stride[axis];
        if (sign < 0) out.origin += last * file_stride[axis];
        for (int row = 0; row < 3; ++row) {
            out.affine[row][target] = sign * affine[row][axis];
            if (sign < 0) out.affine[row][3] += static_cast<double>(last) * affine[row][axis];
        }
    }
    return out;
}

std::array<double, 3> spacing_mm(const Affine& affine) {
    std::array<double, 3> out;
    for (int c = 0; c < 3; ++c)
        out[c] = std::sqrt(affine[0][c] * affine[0][c] + affine[1][c] * affine[1][c] + affine[2][c] * affine[2][c]);
    return out;
}

double corners_apart_mm(const Affine& first, const Affine& second, const Size& size) {
    double most = 0;
    for (int corner = 0; corner < 8; ++corner)
        for (int row = 0; row < 3; ++row) {
            double apart = first[row][3] - second[row][3];
            for (int c = 0; c < 3; ++c)
                if (corner >> c & 1) apart += (first[row][c] - second[row][c]) * static_cast<double>(size[c] - 1);
            if (std::isnan(apart)) return apart;
            most = std::max(most, std::fabs(apart));
        }
    return most;
}

}  // namespace segkit
