// Functions of ours as nodes of MLX's graph: lazy like any other, and run in order by the stream of the CPU.

#include <cstddef>
#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/primitives.h"
#include "mlx/stream.h"

namespace {

using mlx::core::array;

/// Computes `output` from `inputs`, whose shapes and dtypes `payload` knows. It must not throw.
using Run = void (*)(void* payload, const void* const* inputs, void* output);

class Kernel : public mlx::core::UnaryPrimitive {
 public:
  Kernel(mlx::core::Stream stream, const char* name, Run run, std::shared_ptr<void> payload)
      : UnaryPrimitive(stream), name_(name), run_(run), payload_(std::move(payload)) {}

  void eval_cpu(const std::vector<array>& inputs, array& output) override {
    // MLX keeps the buffers of inputs and output until what is dispatched here has run.
    std::vector<const void*> data;
    data.reserve(inputs.size());
    for (const auto& input : inputs) {
      if (!input.flags().row_contiguous) {
        throw std::invalid_argument("[flash] a kernel's input is not row-contiguous");
      }
      data.push_back(input.data<char>());
    }
    output.set_data(mlx::core::allocator::malloc(output.nbytes()));
    mlx::core::cpu::get_command_encoder(stream()).dispatch(
        [run = run_, payload = payload_, data = std::move(data), output = output.data<char>()]() {
          run(payload.get(), data.data(), output);
        });
  }

  void eval_gpu(const std::vector<array>&, array&) override {
    throw std::runtime_error("[flash] kernels run on the CPU");
  }

  const char* name() const override {
    return name_;
  }

 private:
  const char* name_;
  Run run_;
  std::shared_ptr<void> payload_;
};

} // namespace

/// A float32 array of `shape` that `run(payload, …)` computes from the data of `inputs`, each row-contiguous. `name`
/// must live for ever. `dtor(payload)` runs, on any thread, when neither the array nor its computation needs it any more.
/// On failure the handle is empty and the error handler has been called; `dtor` runs then, too.
extern "C" mlx_array flash_array_kernel(
    const char* name,
    const mlx_array* inputs,
    std::size_t n_inputs,
    const int* shape,
    int dim,
    Run run,
    void* payload,
    void (*dtor)(void*)) {
  std::shared_ptr<void> owned(payload, dtor);
  try {
    std::vector<array> arrays;
    arrays.reserve(n_inputs);
    for (std::size_t idx = 0; idx < n_inputs; ++idx) {
      arrays.push_back(mlx_array_get_(inputs[idx]));
    }
    auto stream = mlx::core::default_stream(mlx::core::Device::cpu);
    return mlx_array_new_(array(
        mlx::core::Shape(shape, shape + dim),
        mlx::core::float32,
        std::make_shared<Kernel>(stream, name, run, std::move(owned)),
        std::move(arrays)));
  } catch (const std::exception& error) {
    mlx_error("%s", error.what());
    return mlx_array{nullptr};
  }
}
