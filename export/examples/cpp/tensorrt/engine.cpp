/// TensorRT, of either kind, as an engine on the first CUDA device. It takes the bundle's compiled engine that is
/// proven with this very version; all memory on the device is allocated once.
#include "engine.hpp"

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <vector>

#include "error.hpp"

namespace segkit {

namespace {

#ifdef SEGKIT_TENSORRT_RTX
constexpr const char* runtime_name = "tensorrt_rtx";
#else
constexpr const char* runtime_name = "tensorrt";
#endif

/// Keeps the last error: why a call failed is said nowhere else.
class Log : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) last = message;
    }
    std::string last = "nothing";
};

void require(cudaError_t code, const char* what) {
    if (code != cudaSuccess)
        throw std::runtime_error(text("expected ", what, ", CUDA says: ", cudaGetErrorString(code)));
}

/// Floats on the device.
class DeviceMemory {
public:
    explicit DeviceMemory(const Shape5& shape) {
        for (const std::int64_t side : shape) count_ *= static_cast<std::size_t>(side);
        require(cudaMalloc(&data_, bytes()), "memory on the device");
    }
    ~DeviceMemory() { cudaFree(data_); }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    void* data() const { return data_; }
    std::size_t count() const { return count_; }
    std::size_t bytes() const { return count_ * sizeof(float); }

private:
    void* data_ = nullptr;
    std::size_t count_ = 1;
};

/// A CUDA stream.
class Stream {
public:
    Stream() { require(cudaStreamCreate(&stream_), "a CUDA device"); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    cudaStream_t get() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class TensorRtEngine : public Engine {
public:
    explicit TensorRtEngine(const Network& network)
        : input_(network.input), logits_(network.logits), host_logits_(logits_.count()) {
        runtime_.reset(nvinfer1::createInferRuntime(log_));
        if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(network.content.data(), network.content.size()));
        if (engine_) context_.reset(engine_->createExecutionContext());
        if (!context_)
            throw std::runtime_error(text("expected ", network.file, " to load, ", runtime_name, " says: ", log_.last));
        bind(network);
    }

    const float* run(const float* patch) override {
        require(cudaMemcpyAsync(input_.data(), patch, input_.bytes(), cudaMemcpyHostToDevice, stream_.get()),
                "a copy to the device");
        if (!context_->enqueueV3(stream_.get()))
            throw std::runtime_error(text("expected ", runtime_name, " to run, it says: ", log_.last));
        require(cudaMemcpyAsync(host_logits_.data(), logits_.data(), logits_.bytes(), cudaMemcpyDeviceToHost,
                                stream_.get()),
                "a copy from the device");
        require(cudaStreamSynchronize(stream_.get()), "the device to finish");
        return host_logits_.data();
    }

private:
    /// Give input and outputs their memory, and hold their shapes against the manifest's.
    void bind(const Network& network) {
        std::string in, out;
        for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
            const std::string name = engine_->getIOTensorName(i);
            const bool is_input = engine_->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT;
            if (name == "labels" || name == "mean_logit") {  // not looked at, but written
                extra_.push_back(std::make_unique<DeviceMemory>(patch_of(network)));
                take(context_->setTensorAddress(name.c_str(), extra_.back()->data()));
                continue;
            }
            std::string& place = is_input ? in : out;
            if (!place.empty() || engine_->getTensorDataType(name.c_str()) != nvinfer1::DataType::kFLOAT)
                refuse("expected one input and logits in float32, ", network.file, " has others: ", name);
            place = name;
        }
        if (in.empty() || out.empty()) refuse("expected an input and logits, ", network.file, " has one of them");
        nvinfer1::Dims shape{};
        shape.nbDims = 5;
        for (int i = 0; i < 5; ++i) shape.d[i] = network.input[static_cast<std::size_t>(i)];
        if (!context_->setInputShape(in.c_str(), shape))
            refuse("expected an engine for the patches of the manifest, ", network.file, " is for others: ", log_.last);
        const nvinfer1::Dims found = context_->getTensorShape(out.c_str());
        bool same = found.nbDims == 5;
        for (int i = 0; same && i < 5; ++i) same = found.d[i] == network.logits[static_cast<std::size_t>(i)];
        if (!same) refuse("expected logits of one channel a label, ", network.file, " gives another shape");
        take(context_->setTensorAddress(in.c_str(), input_.data()));
        take(context_->setTensorAddress(out.c_str(), logits_.data()));
    }

    void take(bool taken) const {
        if (!taken)
            throw std::runtime_error(text("expected ", runtime_name, " to take its memory, it says: ", log_.last));
    }

    static Shape5 patch_of(const Network& network) {
        return {1, 1, network.input[2], network.input[3], network.input[4]};
    }

    Log log_;
    Stream stream_;
    DeviceMemory input_, logits_;
    std::vector<std::unique_ptr<DeviceMemory>> extra_;
    std::vector<float> host_logits_;
    // Each needs the one before it.
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

}  // namespace

Runtime runtime() {
    const std::string version =
        text(NV_TENSORRT_MAJOR, ".", NV_TENSORRT_MINOR, ".", NV_TENSORRT_PATCH, ".", NV_TENSORRT_BUILD);
    return {runtime_name, version, "cuda", true};
}

std::unique_ptr<Engine> open_engine(const Network& network, int) { return std::make_unique<TensorRtEngine>(network); }

}  // namespace segkit
