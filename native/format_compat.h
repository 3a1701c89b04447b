// std::format for compilers without <format> (GCC before 13). mlx-c formats with plain `{}` only.
#pragma once

#if __has_include(<format>)
#include <format>
#else
#include <sstream>
#include <string>
#include <string_view>

namespace std {

inline string format(string_view text) {
  return string(text);
}

template <typename First, typename... Rest>
string format(string_view text, const First& first, const Rest&... rest) {
  auto place = text.find("{}");
  if (place == string_view::npos) {
    return string(text);
  }
  ostringstream out;
  out << text.substr(0, place) << first << format(text.substr(place + 2), rest...);
  return out.str();
}

} // namespace std
#endif
