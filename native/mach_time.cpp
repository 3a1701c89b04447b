// mlx-rs seeds its random numbers from this macOS clock. Its value only has to differ between runs.

#include <chrono>
#include <cstdint>

extern "C" std::uint64_t mach_approximate_time(void) {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}
