/* Included before every source of llama.cpp. In many versions of GCC, 12.2 among them, _tile_loadconfig claims to read 8 bytes
   of the 64 (GCC bug 114098), so what sets the others is left out: the first product on AMX then crashes. */
#if defined(__AMX_TILE__)
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
#endif
