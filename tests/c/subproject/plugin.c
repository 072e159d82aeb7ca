#include <rocmforge.h>

const char *plugin_version(void) { return rf_version(); }
