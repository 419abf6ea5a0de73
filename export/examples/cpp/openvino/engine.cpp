/// OpenVINO as an engine: the fastest on CPUs.
#include "engine.hpp"

#include <openvino/runtime/compiled_model.hpp>
#include <openvino/runtime/core.hpp>
#include <openvino/runtime/infer_request.hpp>
#include <openvino/runtime/properties.hpp>
#include <stdexcept>

#include "error.hpp"

namespace segkit {

namespace {

/// The one Core of this process, which lives as long: a Core that loads the CPU gives its thread another stack for
/// signal handlers, and at its end puts the one from before back, also where that one is gone (OpenVINO 2026.4). Where
/// two ended in the order of their making, the next signal with a handler on that stack would end the process.
ov::Core& core() {
    static ov::Core* const one = new ov::Core;
    return *one;
}

class OpenVinoEngine : public Engine {
public:
    OpenVinoEngine(const Network& network, int threads) {
        const auto fp32 = ov::hint::inference_precision(ov::element::f32);
        core().set_property("CPU", fp32);
        ov::AnyMap config{fp32, ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
        if (threads > 0) config.insert(ov::inference_num_threads(threads));
        const auto model = core().read_model(network.content, ov::Tensor());
        keep_logits(*model);
        compiled_ = core().compile_model(model, "CPU", config);
        require_fp32(network);
        request_ = compiled_.create_infer_request();
        input_ = ov::Shape(network.input.begin(), network.input.end());
        logits_ = ov::Shape(network.logits.begin(), network.logits.end());
    }

    const float* run(const float* patch) override {
        // OpenVINO takes no pointer to const, and does not write to its input.
        request_.set_input_tensor(ov::Tensor(ov::element::f32, input_, const_cast<float*>(patch)));
        request_.infer();
        const ov::Tensor out = request_.get_output_tensor(0);
        if (out.get_shape() != logits_)
            throw std::runtime_error(text("expected logits of shape ", logits_, ", OpenVINO gives ", out.get_shape()));
        return out.data<const float>();
    }

private:
    /// Drop what is not the first output, so that it is not computed: a file may give labels as well.
    static void keep_logits(ov::Model& model) {
        const ov::ResultVector results = model.get_results();
        for (std::size_t i = 1; i < results.size(); ++i) model.remove_result(results[i]);
    }

    /// Refuse what OpenVINO made of the hint, if that is another precision.
    void require_fp32(const Network& network) const {
        const auto found = compiled_.get_property(ov::hint::inference_precision);
        if (network.precision != "fp32" || found != ov::element::f32)
            throw std::runtime_error(text("expected OpenVINO to compute ", network.file, " in fp32, it chose ", found));
        if (compiled_.inputs().size() != 1)
            refuse("expected one input, ", network.file, " has ", compiled_.inputs().size());
    }

    ov::CompiledModel compiled_;
    ov::InferRequest request_;
    ov::Shape input_, logits_;
};

}  // namespace

Runtime runtime() {
    const std::string build = ov::get_openvino_version().buildNumber;  // 2026.4.1-21000-abcdef
    return {"openvino", build.substr(0, build.find('-')), "cpu", false};
}

std::unique_ptr<Engine> open_engine(const Network& network, int threads) {
    return std::make_unique<OpenVinoEngine>(network, threads);
}

}  // namespace segkit
