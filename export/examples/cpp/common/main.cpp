/// segkit_segment: a bundle and NIfTI files in, a label file out.
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <new>
#include <optional>

#include "error.hpp"
#include "segmenter.hpp"

namespace {

constexpr const char* usage =
    "usage: segkit_segment BUNDLE --modality NAME=FILE [--modality NAME=FILE ...] --out FILE\n"
    "                      [--threads N] [--allow-untrained] [--overwrite]\n"
    "\n"
    "Segments one head with a segkit bundle (a folder). FILE is .nii or .nii.gz.\n"
    "Exit code: 0 done, 1 failed, 2 a bad request or input.\n"
    "\n"
    "Example: segkit_segment unet3d.segkit --modality T1=t1.nii.gz --modality T2=t2.nii.gz --out seg.nii.gz\n";

struct Request {
    std::filesystem::path bundle, out;
    std::map<std::string, std::filesystem::path> images;
    segkit::Options options;
    bool overwrite = false;
};

void add_image(Request& request, const std::string& value) {
    const std::size_t equals = value.find('=');
    if (equals == 0 || equals == std::string::npos) segkit::refuse("expected --modality NAME=FILE, got '", value, "'");
    if (!request.images.emplace(value.substr(0, equals), value.substr(equals + 1)).second)
        segkit::refuse("expected each modality once, got ", value.substr(0, equals), " twice");
}

int to_threads(const std::string& value) {
    char* end = nullptr;
    const long number = std::strtol(value.c_str(), &end, 10);
    if (value.empty() || *end || number < 1 || number > 1024)
        segkit::refuse("expected 1 to 1024 threads, got '", value, "'");
    return static_cast<int>(number);
}

/// The request of a command line; nothing where it asks for help.
std::optional<Request> parse(int count, char** words) {
    Request request;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        const auto value = [&]() -> std::string {
            if (i + 1 == count) segkit::refuse("expected a value behind ", word, ", got none");
            return words[++i];
        };
        if (word == "--help") return std::nullopt;
        if (word == "--modality")
            add_image(request, value());
        else if (word == "--out")
            request.out = value();
        else if (word == "--threads")
            request.options.threads = to_threads(value());
        else if (word == "--allow-untrained")
            request.options.allow_untrained = true;
        else if (word == "--overwrite")
            request.overwrite = true;
        else if (word.rfind("--", 0) == 0 || !request.bundle.empty())
            segkit::refuse("expected one bundle and options, got '", word, "': see --help");
        else
            request.bundle = word;
    }
    if (request.bundle.empty()) segkit::refuse("expected a bundle, got none: see --help");
    if (request.out.empty()) segkit::refuse("expected --out FILE, got none: see --help");
    segkit::require_free_output(request.out, request.overwrite);
    return request;
}

void print_report(const segkit::Segmenter& segmenter, const segkit::Segmentation& result, const Request& request) {
    const segkit::Manifest& manifest = segmenter.bundle().manifest();
    const segkit::Runtime runtime = segkit::runtime();
    std::cout << "bundle: " << manifest.name << " " << segmenter.bundle().id() << "\n"
              << "use: " << manifest.intended_use << "\n"
              << "ran: " << result.tiles << " patches, " << runtime.name << " " << runtime.version << ", "
              << runtime.device << ", " << segmenter.way().precision << ", " << segmenter.way().file
              << (segmenter.selfchecked() ? ", self-check passed" : "") << "\n";
    for (std::size_t i = 1; i < manifest.labels.size(); ++i)
        std::cout << "volume: " << manifest.labels[i].name << " "
                  << static_cast<double>(result.counts[i]) * result.voxel_ml << " ml\n";
    std::cout << "labels: " << request.out.string() << std::endl;
    for (const std::string& warning : segmenter.warnings()) std::cerr << "warning: " << warning << "\n";
    if (result.counts[0] == static_cast<std::int64_t>(result.labels.size()))
        std::cerr << "warning: nothing but background was found\n";
}

/// Say what is wrong in one line, whatever line breaks a file name or a runtime's message brings.
int fail(std::string message, int code) {
    for (char& letter : message)
        if (static_cast<unsigned char>(letter) < ' ') letter = ' ';
    std::cerr << "error: " << message << std::endl;
    return code;
}

}  // namespace

int main(int count, char** words) {
    std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error like a full disk, not an end without a word
    try {
        const std::optional<Request> request = parse(count, words);
        if (!request) {
            std::cout << usage;
            return 0;
        }
        segkit::Segmenter segmenter(request->bundle, request->options);
        const segkit::Segmentation result = segmenter.segment(request->images);
        result.save(request->out);
        print_report(segmenter, result, *request);
        return 0;
    } catch (const segkit::BadInput& error) {
        return fail(error.what(), 2);
    } catch (const std::bad_alloc&) {
        return fail("expected enough memory, found too little", 1);
    } catch (const std::exception& error) {
        return fail(error.what(), 1);
    }
}
