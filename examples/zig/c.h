#include <rocmforge.h>
