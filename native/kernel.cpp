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

/// Computes `outputs` from `inputs`; `payload` knows the shapes and dtypes of both. It must not throw.
using Run = void (*)(void* payload, const void* const* inputs, void* const* outputs);

class Kernel : public mlx::core::Primitive {
 public:
  Kernel(mlx::core::Stream stream, const char* name, Run run, std::shared_ptr<void> payload)
      : Primitive(stream), name_(name), run_(run), payload_(std::move(payload)) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    // MLX keeps the buffers of inputs and outputs until what is dispatched here has run.
    std::vector<const void*> in;
    in.reserve(inputs.size());
    for (const auto& input : inputs) {
      if (!input.flags().row_contiguous) {
        throw std::invalid_argument("[flash] a kernel's input is not row-contiguous");
      }
      in.push_back(input.data<char>());
    }
    std::vector<void*> out;
    out.reserve(outputs.size());
    for (auto& output : outputs) {
      output.set_data(mlx::core::allocator::malloc(output.nbytes()));
      out.push_back(output.data<char>());
    }
    mlx::core::cpu::get_command_encoder(stream()).dispatch(
        [run = run_, payload = payload_, in = std::move(in), out = std::move(out)]() {
          run(payload.get(), in.data(), out.data());
        });
  }

  void eval_gpu(const std::vector<array>&, std::vector<array>&) override {
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

/// Sets `outputs` to `n_outputs` float32 arrays that `run(payload, …)` computes from the data of `inputs`, each
/// row-contiguous. `shapes` are those of all outputs, one after the other, of `dims[i]` extents each. `name` must live for
/// ever. `dtor(payload)` runs, on any thread, when neither an array nor its computation needs it any more. Returns 0, or
/// on failure 1: then the error handler has been called, `outputs` are as they were, and `dtor` runs, too.
extern "C" int flash_array_kernel(
    const char* name,
    const mlx_array* inputs,
    std::size_t n_inputs,
    const int* shapes,
    const int* dims,
    std::size_t n_outputs,
    Run run,
    void* payload,
    void (*dtor)(void*),
    mlx_array* outputs) {
  std::shared_ptr<void> owned(payload, dtor);
  try {
    std::vector<array> arrays;
    arrays.reserve(n_inputs);
    for (std::size_t idx = 0; idx < n_inputs; ++idx) {
      arrays.push_back(mlx_array_get_(inputs[idx]));
    }
    std::vector<mlx::core::Shape> output_shapes;
    for (std::size_t idx = 0; idx < n_outputs; ++idx) {
      output_shapes.emplace_back(shapes, shapes + dims[idx]);
      shapes += dims[idx];
    }
    auto stream = mlx::core::default_stream(mlx::core::Device::cpu);
    auto made = array::make_arrays(
        std::move(output_shapes),
        std::vector<mlx::core::Dtype>(n_outputs, mlx::core::float32),
        std::make_shared<Kernel>(stream, name, run, std::move(owned)),
        arrays);
    for (std::size_t idx = 0; idx < n_outputs; ++idx) {
      outputs[idx] = mlx_array_new_(std::move(made[idx]));
    }
    return 0;
  } catch (const std::exception& error) {
    mlx_error("%s", error.what());
    return 1;
  }
}
