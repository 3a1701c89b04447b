// mlx-c declares its half-precision accessors only if the C compiler has half types (Arm). mlx-rs calls them on all
// targets, and passes only pointers, so 16-bit integers suffice.

#include <cstdint>

#include "guard.h"
#include "mlx/array.h"
#include "mlx/c/array.h"
#include "mlx/c/private/mlx.h"

namespace {

template <typename T>
int item_bits(std::uint16_t* result, mlx_array array) {
  return flash::guarded(1, [&] {
    T value = mlx_array_get_(array).item<T>();
    static_assert(sizeof(value) == sizeof(*result));
    __builtin_memcpy(result, &value, sizeof(value));
    return 0;
  });
}

template <typename T>
const std::uint16_t* data_bits(mlx_array array) {
  return flash::guarded(static_cast<const std::uint16_t*>(nullptr), [&] {
    return reinterpret_cast<const std::uint16_t*>(mlx_array_get_(array).data<T>());
  });
}

} // namespace

#ifndef HAS_FLOAT16
extern "C" int mlx_array_item_float16(std::uint16_t* result, const mlx_array array) {
  return item_bits<mlx::core::float16_t>(result, array);
}
extern "C" const std::uint16_t* mlx_array_data_float16(const mlx_array array) {
  return data_bits<mlx::core::float16_t>(array);
}
#endif

#ifndef HAS_BFLOAT16
extern "C" int mlx_array_item_bfloat16(std::uint16_t* result, const mlx_array array) {
  return item_bits<mlx::core::bfloat16_t>(result, array);
}
extern "C" const std::uint16_t* mlx_array_data_bfloat16(const mlx_array array) {
  return data_bits<mlx::core::bfloat16_t>(array);
}
#endif
