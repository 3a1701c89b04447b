// Arrays over memory that the caller owns, without a copy.
//
// mlx-c's managed constructor copies on the CPU, because MLX's CPU allocator cannot wrap foreign memory. However, all
// it requires of a buffer is that the word before the data holds its size; the caller leaves room for it.

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

/// Allocates a handle of an array.
mlx_array new_handle(mlx::core::array&& made) {
  if (std::exchange(next_handle_fails, false)) {
    throw std::bad_alloc();
  }
  return mlx_array_new_(std::move(made));
}

} // namespace

/// For tests: makes the next allocation of a handle in this file fail on this thread.
extern "C" void flash_fail_next_handle() {
  next_handle_fails = true;
}

/// Returns an array of `shape` and `dtype` over `data`. The `sizeof(size_t)` bytes before `data` must belong to the
/// caller and are overwritten. Takes ownership of the payload, also on failure: `dtor(payload)` runs once, on any
/// thread, when the last array that shares the memory is destroyed, or before this returns if there is none. On failure
/// the handle is empty, and the error handler has been called.
extern "C" mlx_array flash_array_alias(
    void* data,
    const int* shape,
    int dim,
    mlx_dtype dtype,
    void* payload,
    void (*dtor)(void*)) {
  return flash::guarded(mlx_array{nullptr}, [&] {
    // The only owner, also if an exception is thrown: its last copy calls `dtor`.
    std::shared_ptr<void> owned(payload, dtor);
    auto cpp_dtype = mlx_dtype_to_cpp(dtype);
    mlx::core::Shape cpp_shape(shape, shape + dim);
    std::size_t bytes = mlx::core::size_of(cpp_dtype);
    for (auto extent : cpp_shape) {
      bytes *= static_cast<std::size_t>(extent);
    }
    auto* header = static_cast<std::size_t*>(data) - 1;
    *header = bytes;
    // The payload is freed when MLX destroys the deleter with the data, not by the deleter's call.
    auto deleter = [owned = std::move(owned)](mlx::core::allocator::Buffer) {};
    return new_handle(
        mlx::core::array(mlx::core::allocator::Buffer(header), std::move(cpp_shape), cpp_dtype, std::move(deleter)));
  });
}

/// Returns an evaluated array of `shape` and `dtype` that shares the memory of `whole`, an evaluated contiguous array
/// of bytes, from `offset` bytes on. The address needs no alignment. On failure the handle is empty, and the error
/// handler has been called.
extern "C" mlx_array flash_array_view(
    mlx_array whole,
    std::size_t offset,
    const int* shape,
    int dim,
    mlx_dtype dtype) {
  using mlx::core::array;
  return flash::guarded(mlx_array{nullptr}, [&] {
    array::Flags flags{/* contiguous */ true, /* row_contiguous */ true, /* col_contiguous */ dim <= 1};
    // Offsets are in elements, so the offset is applied to an array of bytes first.
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
