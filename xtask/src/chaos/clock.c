// The wall clock as `cargo xtask chaos` steps it, for programs that ask the C library: loaded before it (ld.so(8), LD_PRELOAD).
// The step in seconds stands in the file that CHAOS_CLOCK names, so one write steps the clock of every program at once.
// The kernel's own clock, and so every other program of the machine and the times of files, stays as it is.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t *step;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

// Before main, and before a program shuts itself in.
__attribute__((constructor)) static void find(void) {
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) {
        return;
    }
    void *map = mmap(NULL, sizeof *step, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) {
        step = map;
    }
}

int clock_gettime(clockid_t id, struct timespec *now) {
    // Another library's constructor may be earlier.
    if (!real_clock_gettime) {
        find();
    }
    int result = real_clock_gettime(id, now);
    if (result == 0 && step && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        now->tv_sec += __atomic_load_n(step, __ATOMIC_RELAXED);
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    if (result == 0) {
        now->tv_sec = precise.tv_sec;
        now->tv_usec = precise.tv_nsec / 1000;
    }
    return result;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) {
        *place = now.tv_sec;
    }
    return now.tv_sec;
}
