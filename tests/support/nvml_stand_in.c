/* A stand-in for libnvidia-ml.so.1, told what to say by the file that NVML_SAYS names, which is read at each call: words with numbers,
   as in "temp 95 margin 3". hang 1: calls never return. mismatch 1: the driver was changed. lost N: GPU N-1 fell off the bus; unknown N: likewise, in
   newer drivers' words. reset 1: NVML wants a reset; recovery N: the driver wants N done (nvmlDeviceGpuRecoveryAction_t).
   xid N: Xid N is reported once, when the number has changed. unset N: limits can't be set, with error N; least N: nor below N milliwatts; die 1: the process dies when it has
   set one. A value of -10000 - N: its call fails with error N. Each limit that is set is a line "GPU MILLIWATTS" of the file that NVML_LIMITS names, and outlives the process, as in a driver. -DOLD_DRIVER leaves out what older libraries do not have. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, TIMEOUT = 10, LOST = 15, RESET = 16, MISMATCH = 18, UNKNOWN = 999 };
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } use_t;
typedef struct { unsigned int version; int margin; } margin_t;
typedef struct { unsigned int field, scope; long long when, latency; int type, result; union { unsigned int u; double d; } value; } field_t;
typedef struct { void *device; unsigned long long type, data; unsigned int instance, compute; } event_t;

static long say(const char *word, long otherwise) {
  const char *path = getenv("NVML_SAYS");
  FILE *file = path ? fopen(path, "r") : NULL;
  char name[64];
  long value, found = otherwise;
  if (!file) return otherwise;
  while (fscanf(file, "%63s %ld", name, &value) == 2)
    if (!strcmp(name, word)) found = value;
  fclose(file);
  return found;
}
static int answer(void *h) {
  while (say("hang", 0)) pause();
  if (say("mismatch", 0)) return MISMATCH;
  if (h && say("reset", 0)) return RESET;
  return h && say("lost", 0) == (long)h ? LOST : OK;
}
static int tell(void *h, const char *word, long otherwise, unsigned int *out) {
  long value = say(word, otherwise);
  *out = (unsigned int)value;
  if (value <= -10000) return (int)(-10000 - value);
  return value < -1000 ? NOT_SUPPORTED : answer(h);
}

int nvmlInit_v2(void) { return say("mismatch", 0) ? MISMATCH : OK; }
int nvmlInitWithFlags(unsigned int f) { (void)f; return nvmlInit_v2(); }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = (unsigned int)say("gpus", 1); return answer(NULL); }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **h) { *h = (void *)(long)(i + 1); return say("unknown", 0) == i + 1 ? UNKNOWN : answer(*h); }
int nvmlDeviceGetName(void *h, char *s, unsigned int n) { strncpy(s, "Stand-in", n); return answer(h); }
int nvmlDeviceGetTemperature(void *h, int w, unsigned int *t) { (void)w; return tell(h, "temp", 61, t); }
int nvmlDeviceGetPowerUsage(void *h, unsigned int *p) { return tell(h, "power", 350500, p); }
int nvmlDeviceGetUtilizationRates(void *h, use_t *u) { u->gpu = 97; u->memory = 5; return answer(h); }
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) { m->total = 80; m->used = 33; m->free = 47; return answer(h); }
int nvmlDeviceGetUUID(void *h, char *s, unsigned int n) { snprintf(s, n, "GPU-%ld", (long)h - 1); return answer(h); }
int nvmlDeviceGetPowerManagementLimitConstraints(void *h, unsigned int *l, unsigned int *m) { *l = (unsigned int)say("least", 200000); *m = 700000; return answer(h); }
int nvmlDeviceGetPowerManagementLimit(void *h, unsigned int *limit) {
  const char *path = getenv("NVML_LIMITS");
  FILE *file = path ? fopen(path, "r") : NULL;
  long gpu, value;
  *limit = 700000;
  while (file && fscanf(file, "%ld %ld", &gpu, &value) == 2)
    if (gpu == (long)h - 1) *limit = (unsigned int)value;
  if (file) fclose(file);
  return answer(h);
}
int nvmlDeviceSetPowerManagementLimit(void *h, unsigned int limit) {
  if (say("unset", 0)) return (int)say("unset", 0);
  if (limit < say("least", 200000)) return INVALID;
  FILE *file = fopen(getenv("NVML_LIMITS"), "a");
  fprintf(file, "%ld %u\n", (long)h - 1, limit);
  fclose(file);
  if (say("die", 0)) kill(getpid(), 9);
  return answer(h);
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int r) { return r == LOST ? "GPU is lost" : r == NO_PERMISSION ? "Insufficient Permissions" : r == MISMATCH ? "Driver/library version mismatch" : "error"; }

#ifndef OLD_DRIVER
int nvmlDeviceGetTemperatureV(void *h, unsigned int *v) { return tell(h, "temp", 61, &v[2]); }
int nvmlDeviceGetMarginTemperature(void *h, margin_t *m) { return tell(h, "margin", 26, (unsigned int *)&m->margin); }
int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *r) { *r = (unsigned long long)say("clocks", 4); return answer(h); }
int nvmlDeviceGetTotalEccErrors(void *h, int type, int counter, unsigned long long *n) {
  (void)type; (void)counter;
  *n = (unsigned long long)say("ecc", 0);
  return answer(h);
}
int nvmlDeviceGetFieldValues(void *h, int n, field_t *fields) {
  for (int i = 0; i < n; i++)
    fields[i].result = fields[i].field == 230 ? tell(h, "recovery", 0, &fields[i].value.u) : tell(h, "memory_temp", 72, &fields[i].value.u);
  return answer(h);
}
int nvmlEventSetCreate(void **set) { *set = (void *)1; return OK; }
static unsigned int listening = 0;
int nvmlDeviceRegisterEvents(void *h, unsigned long long types, void *set) {
  (void)types; (void)set;
  int result = answer(h);
  listening = result == OK ? listening | 1u << (long)h : listening & ~(1u << (long)h);
  return result;
}
int nvmlEventSetWait_v2(void *set, event_t *event, unsigned int milliseconds) {
  static long told = 0;
  (void)set;
  for (unsigned int waited = 0;; waited += 5) {
    long code = say("xid", 0);
    if (code != told) {
      told = code;
      memset(event, 0, sizeof *event);
      event->device = (void *)1;
      event->type = 8;
      event->data = (unsigned long long)code;
      if (code) return OK;
    }
    if (say("lost", 0) && listening & 1u << say("lost", 0)) return LOST;
    if (waited >= milliseconds) return TIMEOUT;
    usleep(5000);
  }
}
#endif
