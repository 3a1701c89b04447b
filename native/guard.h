// Catches exceptions at the C interface, whose callers cannot unwind.

#pragma once

#include <exception>

#include "mlx/c/error.h"

namespace flash {

/// Returns `body()`; if it throws, calls the error handler and returns `failed`. An exception of the handler itself
/// terminates the program.
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
