// Custom functions as nodes of MLX's graph: lazy like any other, and run in order by the CPU stream.

#include <cstddef>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "guard.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/array.h"
#include "mlx/c/private/mlx.h"
#include "mlx/primitives.h"
#include "mlx/stream.h"

namespace {

using mlx::core::array;

/// Computes `outputs` from `inputs`; `payload` holds the shapes and dtypes of both. Must not throw.
using Run = void (*)(void* payload, const void* const* inputs, void* const* outputs);

/// Copies the elements of a strided array to contiguous memory in row-major order. `strides` are in elements.
char* gather(
    const char* from,
    char* to,
    const mlx::core::Shape& shape,
    const mlx::core::Strides& strides,
    std::size_t itemsize,
    std::size_t axis = 0) {
  if (axis == shape.size()) {
    std::memcpy(to, from, itemsize);
    return to + itemsize;
  }
  auto extent = static_cast<std::size_t>(shape[axis]);
  if (axis + 1 == shape.size() && strides[axis] == 1) {
    std::memcpy(to, from, extent * itemsize);
    return to + extent * itemsize;
  }
  auto stride = strides[axis] * static_cast<std::ptrdiff_t>(itemsize);
  for (std::size_t idx = 0; idx < extent; ++idx) {
    to = gather(from + static_cast<std::ptrdiff_t>(idx) * stride, to, shape, strides, itemsize, axis + 1);
  }
  return to;
}

/// An input that is not row-contiguous, with memory for a row-contiguous copy. MLX keeps the input's buffer alive.
struct Strided {
  const char* from;
  mlx::core::Shape shape;
  mlx::core::Strides strides;
  std::size_t itemsize;
  std::shared_ptr<char[]> to;

  explicit Strided(const array& input)
      : from(input.data<char>()),
        shape(input.shape()),
        strides(input.strides()),
        itemsize(input.itemsize()),
        to(new char[input.nbytes()]) {}

  void copy() const {
    gather(from, to.get(), shape, strides, itemsize);
  }
};

class Kernel : public mlx::core::Primitive {
 public:
  Kernel(mlx::core::Stream stream, const char* name, Run run, std::shared_ptr<void> payload)
      : Primitive(stream), name_(name), run_(run), payload_(std::move(payload)) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    // MLX keeps the buffers of inputs and outputs alive until the task dispatched here has run.
    std::vector<const void*> in;
    in.reserve(inputs.size());
    std::vector<Strided> strided;
    for (const auto& input : inputs) {
      if (input.flags().row_contiguous) {
        in.push_back(input.data<char>());
      } else {
        // The input is copied in the task, since earlier tasks must compute it first.
        in.push_back(strided.emplace_back(input).to.get());
      }
    }
    std::vector<void*> out;
    out.reserve(outputs.size());
    for (auto& output : outputs) {
      output.set_data(mlx::core::allocator::malloc(output.nbytes()));
      out.push_back(output.data<char>());
    }
    mlx::core::cpu::get_command_encoder(stream()).dispatch(
        [run = run_, payload = payload_, strided = std::move(strided), in = std::move(in), out = std::move(out)]() {
          for (const auto& input : strided) {
            input.copy();
          }
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

/// Sets `outputs` to `n_outputs` float32 arrays that `run(payload, …)` computes from the data of `inputs`, which is
/// made row-contiguous by copying if needed. `shapes` holds the shapes of all outputs, concatenated, of `dims[i]`
/// extents each. `name` must have static lifetime. Takes ownership of the payload, also on failure: `dtor(payload)`
/// runs once, on any thread, when neither an array nor its computation needs it any more, or before this returns if
/// there is none. Returns 0, or 1 on failure: then the error handler has been called, and `outputs` are unchanged.
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
  return flash::guarded(1, [&] {
    std::shared_ptr<void> owned(payload, dtor);
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
    // Allocates all handles before setting any output.
    std::vector<std::unique_ptr<array>> handles;
    handles.reserve(n_outputs);
    for (auto& output : made) {
      handles.push_back(std::make_unique<array>(std::move(output)));
    }
    for (std::size_t idx = 0; idx < n_outputs; ++idx) {
      outputs[idx] = mlx_array{handles[idx].release()};
    }
    return 0;
  });
}
