#include "manifest.hpp"

#include <set>

#include "json.hpp"

namespace segkit {

namespace {

constexpr int schema = 4;
constexpr int most_classes = 255;

Spacing parse_spacing(const Json& json) {
    json.require_only({"least_mm", "most_mm"});
    return {json.at("least_mm").three_numbers(), json.at("most_mm").three_numbers()};
}

/// Refuse a step that only the Python runtime has.
void require_none(const Json& json, const char* what) {
    if (json.string() != "none")
        refuse("expected a bundle without ", what, ", which this program does not have, found '", json.string(),
               "': run it with segkit segment");
}

void parse_preprocessing(const Json& json, Manifest& out) {
    json.require_only({"registration", "bias_correction", "normalisation", "background"});
    require_none(json.at("registration"), "registration");
    require_none(json.at("bias_correction"), "bias correction");
    const std::string& normalisation = json.at("normalisation").string();
    if (normalisation != "zscore-nonzero" && normalisation != "none")
        refuse("expected the normalisation zscore-nonzero or none, found '", normalisation, "'");
    out.zscore = normalisation == "zscore-nonzero";
    const std::string& background = json.at("background").string();
    if (background == "mask")
        out.background = Background::mask;
    else if (background == "zero")
        out.background = Background::zero;
    else if (background == "below")
        out.background = Background::below;
    else
        refuse("expected the background mask, zero or below, found '", background, "'");
}

void parse_inference(const Json& json, Manifest& out) {
    json.require_only({"patch", "overlap", "blending"});
    const Json::List& patch = json.at("patch").list();
    if (patch.size() != 3) refuse("expected three sides in ", json.at("patch").place(), ", found ", patch.size());
    for (int axis = 0; axis < 3; ++axis) {
        out.patch[axis] = static_cast<std::ptrdiff_t>(patch[axis].integer());
        if (out.patch[axis] < 1 || out.patch[axis] > 4096)
            refuse("expected patch sides of 1 to 4096 voxels, found ", out.patch[axis]);
    }
    out.overlap = json.at("overlap").number();
    if (!(out.overlap >= 0 && out.overlap <= 0.75)) refuse("expected an overlap of 0 to 0.75, found ", out.overlap);
    const std::string& blending = json.at("blending").string();
    if (blending != "gaussian" && blending != "constant")
        refuse("expected the blending gaussian or constant, found '", blending, "'");
    out.gaussian = blending == "gaussian";
}

std::vector<Label> parse_labels(const Json& json) {
    std::vector<Label> out;
    std::set<std::int64_t> codes;
    for (const Json& label : json.list()) {
        label.require_only({"code", "name"});
        const std::int64_t code = label.at("code").integer();
        if (code < 0 || code > 65535 || !codes.insert(code).second)
            refuse("expected different label codes of 0 to 65535 in ", label.place(), ", found ", code);
        out.push_back({static_cast<int>(code), label.at("name").string()});
    }
    if (out.size() < 2 || out.size() > most_classes)
        refuse("expected 2 to ", most_classes, " labels, found ", out.size());
    return out;
}

std::vector<std::int64_t> parse_shape(const Json& json) {
    std::vector<std::int64_t> out;
    for (const Json& side : json.list()) out.push_back(side.integer());
    if (out.size() != 5) refuse("expected five sides in ", json.place(), ", found ", out.size());
    return out;
}

CompiledEngine parse_engine(const Json& json) {
    const Json::List& shapes = json.at("shapes").list();
    if (shapes.size() != 3) refuse("expected three shapes in ", json.at("shapes").place(), ", found ", shapes.size());
    return {json.at("file").string(),      json.at("runtime").string(), json.at("version").string(),
            json.at("precision").string(), json.at("model").string(),   json.at("onnx_sha256").string(),
            parse_shape(shapes[0]),        parse_shape(shapes[2]),      json.at("status").string() == "proven"};
}

void parse_proofs(const Json& json, Manifest& out) {
    for (const Json& proof : json.list())
        if (proof.at("proven").boolean() && proof.at("arithmetic").string() == "native")
            out.proofs.push_back({proof.at("runtime").string(), proof.at("version").string(),
                                  proof.at("device").string(), proof.at("precision").string(),
                                  proof.at("model").string(),
                                  proof.at("tolerance").at("least_label_agreement").number()});
}

}  // namespace

Manifest parse_manifest(std::string_view content) {
    const Json json = Json::parse(content, "manifest.json");
    // The version first: another one explains every other difference.
    if (const std::int64_t found = json.at("schema_version").integer(); found != schema)
        refuse("expected a manifest of schema ", schema, ", found ", found);
    json.require_only({"schema_version", "name", "created", "segkit_version", "modalities", "orientation", "spacing",
                       "resample_mm", "preprocessing", "inference", "labels", "network", "weights", "models", "proofs",
                       "engines", "selfcheck", "software", "intended_use"});
    Manifest out;
    out.name = json.at("name").string();
    out.intended_use = json.at("intended_use").string();
    for (const Json& modality : json.at("modalities").list()) out.modalities.push_back(modality.string());
    if (out.modalities.empty()) refuse("expected modalities in manifest.json, found none");
    if (json.at("orientation").string() != "RAS")
        refuse("expected the orientation RAS, found '", json.at("orientation").string(), "'");
    if (!json.at("spacing").is_null()) out.spacing = parse_spacing(json.at("spacing"));
    out.resamples = !json.at("resample_mm").is_null();
    parse_preprocessing(json.at("preprocessing"), out);
    parse_inference(json.at("inference"), out);
    out.labels = parse_labels(json.at("labels"));
    out.trained = json.at("weights").at("trained").boolean();
    for (const Json& model : json.at("models").list())
        out.models.push_back({model.at("file").string(), model.at("precision").string(), model.at("sha256").string()});
    for (const Json& engine : json.at("engines").list()) out.engines.push_back(parse_engine(engine));
    parse_proofs(json.at("proofs"), out);
    if (const Json& check = json.at("selfcheck"); !check.is_null())
        out.selfcheck = SelfCheck{check.at("image").string(), check.at("labels").string()};
    return out;
}

}  // namespace segkit
