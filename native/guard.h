// Exceptions end at the C interface: no caller of these functions can unwind.

#pragma once

#include <exception>

#include "mlx/c/error.h"

namespace flash {

/// Returns `body()`, or `failed` if that throws: then the error handler has been called. An exception of the handler itself
/// ends the program.
template <typename Body, typename Result>
Result guarded(Result failed, Body&& body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    mlx_error("%s", error.what());
  } catch (...) {
    mlx_error("%s", "[flash] an exception that is no std::exception");
  }
  return failed;
}

} // namespace flash
