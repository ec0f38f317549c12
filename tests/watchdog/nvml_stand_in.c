/* A stand-in for libnvidia-ml.so.1: one GPU. NVML_MODE: hang (calls never return), lost (the GPU fell off the bus), mismatch. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } use_t;
typedef struct { unsigned int version; int margin; } margin_t;
static int mode(const char *name) { const char *m = getenv("NVML_MODE"); return m && !strcmp(m, name); }
static int answer(void) { if (mode("hang")) for (;;) pause(); return mode("lost") ? 15 : 0; }
int nvmlInit_v2(void) { return mode("mismatch") ? 18 : 0; }
int nvmlInitWithFlags(unsigned int f) { (void)f; return nvmlInit_v2(); }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **h) { (void)i; *h = (void *)1; return answer(); }
int nvmlDeviceGetName(void *h, char *s, unsigned int n) { (void)h; strncpy(s, "Stand-in", n); return 0; }
int nvmlDeviceGetTemperature(void *h, int w, unsigned int *t) { (void)h; (void)w; *t = 61; return 0; }
int nvmlDeviceGetTemperatureV(void *h, unsigned int *v) { (void)h; v[2] = 61; return 0; }
int nvmlDeviceGetMarginTemperature(void *h, margin_t *m) { (void)h; m->margin = 26; return 0; }
int nvmlDeviceGetPowerUsage(void *h, unsigned int *p) { (void)h; *p = 350500; return 0; }
int nvmlDeviceGetUtilizationRates(void *h, use_t *u) { (void)h; u->gpu = 97; u->memory = 5; return 0; }
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) { (void)h; m->total = 80; m->used = 33; m->free = 47; return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int r) { return r == 15 ? "GPU is lost" : r == 18 ? "Driver/library version mismatch" : "error"; }
