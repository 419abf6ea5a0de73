/// ONNX Runtime as an engine, on the CPU.
#include "engine.hpp"

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "error.hpp"

namespace segkit {

namespace {

Ort::SessionOptions make_options(int threads) {
    Ort::SessionOptions options;
    if (threads > 0) options.SetIntraOpNumThreads(threads);
    return options;
}

class OnnxRuntimeEngine : public Engine {
public:
    OnnxRuntimeEngine(const Network& network, int threads)
        : session_(environment_, network.content.data(), network.content.size(), make_options(threads)),
          input_(network.input),
          logits_(network.logits) {
        if (network.precision != "fp32")
            throw std::runtime_error(text("expected ", network.file, " in fp32, it is in ", network.precision));
        if (session_.GetInputCount() != 1)
            refuse("expected one input, ", network.file, " has ", session_.GetInputCount());
        Ort::AllocatorWithDefaultOptions allocator;
        input_name_ = session_.GetInputNameAllocated(0, allocator).get();
        output_name_ = session_.GetOutputNameAllocated(0, allocator).get();
    }

    const float* run(const float* patch) override {
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        std::size_t count = 1;
        for (const std::int64_t side : input_) count *= static_cast<std::size_t>(side);
        // ONNX Runtime takes no pointer to const, and does not write to its input.
        const Ort::Value input =
            Ort::Value::CreateTensor<float>(memory, const_cast<float*>(patch), count, input_.data(), input_.size());
        const char *const in = input_name_.c_str(), *const out = output_name_.c_str();
        outputs_ = session_.Run(Ort::RunOptions{nullptr}, &in, &input, 1, &out, 1);
        const std::vector<std::int64_t> shape = outputs_[0].GetTensorTypeAndShapeInfo().GetShape();
        if (!std::equal(shape.begin(), shape.end(), logits_.begin(), logits_.end()))
            throw std::runtime_error("expected logits of another shape than ONNX Runtime gives");
        return outputs_[0].GetTensorData<float>();
    }

private:
    Ort::Env environment_{ORT_LOGGING_LEVEL_FATAL, "segkit"};
    Ort::Session session_;
    Shape5 input_, logits_;
    std::string input_name_, output_name_;
    std::vector<Ort::Value> outputs_;
};

}  // namespace

Runtime runtime() { return {"onnxruntime", OrtGetApiBase()->GetVersionString(), "cpu", false}; }

std::unique_ptr<Engine> open_engine(const Network& network, int threads) {
    return std::make_unique<OnnxRuntimeEngine>(network, threads);
}

}  // namespace segkit
