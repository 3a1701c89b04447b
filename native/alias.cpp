// Arrays over memory that the caller owns, without a copy.
//
// mlx-c's managed constructor copies on the CPU, because MLX's CPU allocator cannot wrap foreign memory. It only
// expects of a buffer, though, that the word in front of the data holds its size; the caller leaves room for it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "guard.h"
#include "mlx/array.h"
#include "mlx/c/array.h"
#include "mlx/c/private/mlx.h"

namespace {

thread_local bool next_handle_fails = false;

/// A handle of `made`.
mlx_array new_handle(mlx::core::array&& made) {
  if (std::exchange(next_handle_fails, false)) {
    throw std::bad_alloc();
  }
  return mlx_array_new_(std::move(made));
}

} // namespace

/// For tests: on this thread, the next handle that a function of this file makes cannot be allocated.
extern "C" void flash_fail_next_handle() {
  next_handle_fails = true;
}

/// An array of `shape` and `dtype` over `data`. The `sizeof(size_t)` bytes before `data` are the caller's to give away
/// and are overwritten. The payload is given away in any case: `dtor(payload)` runs once, on any thread, when the last array
/// that shares the memory is gone, or before this returns if there is none. On failure the handle is empty, and the error
/// handler has been called.
extern "C" mlx_array flash_array_alias(
    void* data,
    const int* shape,
    int dim,
    mlx_dtype dtype,
    void* payload,
    void (*dtor)(void*)) {
  return flash::guarded(mlx_array{nullptr}, [&] {
    // The only owner, also while an exception passes: whatever copy of it is the last one calls `dtor`.
    std::shared_ptr<void> owned(payload, dtor);
    auto cpp_dtype = mlx_dtype_to_cpp(dtype);
    mlx::core::Shape cpp_shape(shape, shape + dim);
    std::size_t bytes = mlx::core::size_of(cpp_dtype);
    for (auto extent : cpp_shape) {
      bytes *= static_cast<std::size_t>(extent);
    }
    auto* header = static_cast<std::size_t*>(data) - 1;
    *header = bytes;
    // Not freed by the deleter's call, but by its end: MLX destroys it with the data.
    auto deleter = [owned = std::move(owned)](mlx::core::allocator::Buffer) {};
    return new_handle(
        mlx::core::array(mlx::core::allocator::Buffer(header), std::move(cpp_shape), cpp_dtype, std::move(deleter)));
  });
}

/// An array of `shape` and `dtype` whose data begins `offset` bytes into that of `whole`, an evaluated array of bytes
/// without gaps; it shares the memory, and is evaluated. The address need be no multiple of anything. On failure the
/// handle is empty, and the error handler has been called.
extern "C" mlx_array flash_array_view(
    mlx_array whole,
    std::size_t offset,
    const int* shape,
    int dim,
    mlx_dtype dtype) {
  using mlx::core::array;
  return flash::guarded(mlx_array{nullptr}, [&] {
    array::Flags flags{/* contiguous */ true, /* row_contiguous */ true, /* col_contiguous */ dim <= 1};
    // Offsets are counted in elements, so bytes come first.
    array bytes(mlx::core::Shape{1}, mlx::core::uint8, nullptr, std::vector<array>{});
    bytes.copy_shared_buffer(
        mlx_array_get_(whole), mlx::core::Strides{1}, flags, 1, static_cast<std::int64_t>(offset));
    array view(mlx::core::Shape(shape, shape + dim), mlx_dtype_to_cpp(dtype), nullptr, std::vector<array>{});
    mlx::core::Strides strides(dim, 1);
    for (int axis = dim - 1; axis > 0; --axis) {
      strides[axis - 1] = strides[axis] * shape[axis];
    }
    auto size = view.size();
    view.copy_shared_buffer(bytes, strides, flags, size);
    view.set_status(array::Status::available);
    return new_handle(std::move(view));
  });
}
