/* Faults at the N-th operation on files below a folder, for a process that preloads this library.
 *
 * What is to happen stands in a file that FAULT_STATE names and that every process maps, so that
 * workers and forked children count together: struct state, which shim.py writes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, KILL, FAIL, SIGNAL, SLEEP };
enum { WRITE = 1, CREATE = 2, RENAME = 4, REMOVE = 8, SYNC = 16, READ = 32 };

struct state {
    char below[2048];    /* folder whose files count */
    long long count;     /* operations so far, of the kinds in ops */
    long long nth;       /* the one at which it happens, from 1; 0 for never */
    long long hit;       /* how often it has happened */
    int what;
    int number;          /* errno, signal, or milliseconds to sleep */
    int ops;             /* kinds of operations that count */
    int lasting;         /* whether it happens at all later ones too */
    long long clock_ns;  /* what is added to the time of day */
    char where[2048];    /* operation and path of the first hit */
    char log[2048];      /* file that every operation is written to; empty for none */
};

static struct state *state;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("FAULT_STATE");
    int file = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) state = map;
    close(file);
}

#define REAL(type, name, ...)                         \
    static type (*real)(__VA_ARGS__);                 \
    if (!real) real = dlsym(RTLD_NEXT, #name)

static int below(const char *path) {
    size_t length = strlen(state->below);
    return length && !strncmp(path, state->below, length);
}

/* Whether a path, seen from a folder, lies where faults happen; its name goes to found. */
static int concerns(int folder, const char *path, char *found) {
    char here[PATH_MAX];
    if (!state || !state->ops || !path) return 0;
    if (path[0] == '/') {
        snprintf(found, PATH_MAX, "%s", path);
    } else {
        if (folder == AT_FDCWD) {
            if (!getcwd(here, sizeof here)) return 0;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t n = readlink(link, here, sizeof here - 1);
            if (n < 0) return 0;
            here[n] = 0;
        }
        snprintf(found, PATH_MAX, "%.2000s/%.2000s", here, path);
    }
    return below(found);
}

static int concerns_file(int file, char *found) {
    char link[64];
    if (!state || !state->ops) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, found, PATH_MAX - 1);
    if (n < 0) return 0;
    found[n] = 0;
    return below(found);
}

static void note(const char *name, const char *path) {
    char line[2 * PATH_MAX];
    int size = snprintf(line, sizeof line, "%s %s", name, path);
    int file = syscall(SYS_openat, AT_FDCWD, state->log, O_WRONLY | O_APPEND | O_CREAT, 0666);
    for (int i = 0; i < size; i++) if (line[i] == '\n') line[i] = '?';
    line[size] = '\n';
    syscall(SYS_write, file, line, size + 1);
    close(file);
}

/* Count an operation. Returns errno if it is to fail, -1 if the process is to be killed in it. */
static int happens(int op, const char *name, const char *path) {
    if (!(op & state->ops)) return 0;
    long long n = __sync_add_and_fetch(&state->count, 1);
    if (state->log[0]) note(name, path);
    if (!state->nth || n < state->nth || (n > state->nth && !state->lasting)) return 0;
    if (__sync_add_and_fetch(&state->hit, 1) == 1)
        snprintf(state->where, sizeof state->where, "%s %.1900s", name, path);
    switch (state->what) {
    case KILL: return -1;
    case FAIL: return state->number;
    case SIGNAL: kill(getpid(), state->number); return 0;
    case SLEEP: {
        struct timespec left = {state->number / 1000, state->number % 1000 * 1000000L};
        while (nanosleep(&left, &left) && errno == EINTR) {}
        return 0;
    }
    }
    return 0;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether the disk is full, which what exists can be opened on. */
static int full(void) {
    return state && state->what == FAIL && (state->number == ENOSPC || state->number == EDQUOT);
}

static int there(int folder, const char *path) {
    struct stat told;
    int before = errno;
    int found = state && !fstatat(folder, path, &told, AT_SYMLINK_NOFOLLOW);
    errno = before;
    return found;
}

/* Do what is to be done at an operation on a path; a killed process is not to come back. */
#define AT_PATH(op, name, folder, path, fails)                   \
    char found[PATH_MAX];                                        \
    if (concerns(folder, path, found)) {                         \
        int why = happens(op, name, found);                      \
        if (why < 0) die();                                      \
        if (why > 0) { errno = why; return fails; }              \
    }

#define AT_FILE(op, name, file, half, fails)                     \
    char found[PATH_MAX];                                        \
    if (concerns_file(file, found)) {                            \
        int why = happens(op, name, found);                      \
        if (why < 0) { half; die(); }                            \
        if (why > 0) { errno = why; return fails; }              \
    }

ssize_t write(int file, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    AT_FILE(WRITE, "write", file, (void)!real(file, data, size / 2), -1)
    return real(file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    AT_FILE(WRITE, "pwrite", file, (void)!real(file, data, size / 2, at), -1)
    return real(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    return pwrite(file, data, size, at);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    AT_FILE(WRITE, "writev", file, (void)!real(file, parts, (count + 1) / 2), -1)
    return real(file, parts, count);
}
ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) {
    REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
    AT_FILE(WRITE, "pwritev", file, (void)!real(file, parts, (count + 1) / 2, at), -1)
    return real(file, parts, count, at);
}
ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t at) {
    return pwritev(file, parts, count, at);
}
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    AT_FILE(WRITE, "sendfile", to, (void)!real(to, from, at, size / 2), -1)
    return real(to, from, at, size);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    return sendfile(to, from, at, size);
}
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    AT_FILE(WRITE, "copy_file_range", to, (void)0, -1)
    return real(from, at, to, there, size, flags);
}
int ftruncate(int file, off_t size) {
    REAL(int, ftruncate, int, off_t);
    AT_FILE(WRITE, "ftruncate", file, (void)0, -1)
    return real(file, size);
}
int ftruncate64(int file, off64_t size) { return ftruncate(file, size); }
int fsync(int file) {
    REAL(int, fsync, int);
    AT_FILE(SYNC, "fsync", file, (void)0, -1)
    return real(file);
}
int fdatasync(int file) {
    REAL(int, fdatasync, int);
    AT_FILE(SYNC, "fdatasync", file, (void)0, -1)
    return real(file);
}
ssize_t read(int file, void *data, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    AT_FILE(READ, "read", file, (void)0, -1)
    return real(file, data, size);
}
ssize_t pread(int file, void *data, size_t size, off_t at) {
    REAL(ssize_t, pread, int, void *, size_t, off_t);
    AT_FILE(READ, "pread", file, (void)0, -1)
    return real(file, data, size, at);
}
ssize_t pread64(int file, void *data, size_t size, off64_t at) { return pread(file, data, size, at); }
ssize_t preadv(int file, const struct iovec *parts, int count, off_t at) {
    REAL(ssize_t, preadv, int, const struct iovec *, int, off_t);
    AT_FILE(READ, "preadv", file, (void)0, -1)
    return real(file, parts, count, at);
}
ssize_t preadv64(int file, const struct iovec *parts, int count, off64_t at) {
    return preadv(file, parts, count, at);
}

int openat(int folder, const char *path, int flags, ...) {
    REAL(int, openat, int, const char *, int, ...);
    mode_t mode = 0;
    if (flags & (O_CREAT | __O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    if (((flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC)) &&
        !(full() && there(folder, path))) {
        AT_PATH(CREATE, "open", folder, path, -1)
    }
    return real(folder, path, flags, mode);
}
int open(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | __O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    return openat(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | __O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    return openat(AT_FDCWD, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | __O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    return openat(folder, path, flags, mode);
}
FILE *fopen(const char *path, const char *how) {
    REAL(FILE *, fopen, const char *, const char *);
    if (strpbrk(how, "wa+") && !(full() && there(AT_FDCWD, path))) {
        AT_PATH(CREATE, "fopen", AT_FDCWD, path, NULL)
    }
    return real(path, how);
}
FILE *fopen64(const char *path, const char *how) { return fopen(path, how); }

int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    if (!there(folder, path)) { /* what exists is told first, on a full disk too */
        AT_PATH(CREATE, "mkdir", folder, path, -1)
    }
    return real(folder, path, mode);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
int symlink(const char *to, const char *path) {
    REAL(int, symlink, const char *, const char *);
    AT_PATH(CREATE, "symlink", AT_FDCWD, path, -1)
    return real(to, path);
}
int link(const char *from, const char *path) {
    REAL(int, link, const char *, const char *);
    AT_PATH(CREATE, "link", AT_FDCWD, path, -1)
    return real(from, path);
}
int renameat(int from_folder, const char *from, int folder, const char *path) {
    REAL(int, renameat, int, const char *, int, const char *);
    AT_PATH(RENAME, "rename", folder, path, -1)
    return real(from_folder, from, folder, path);
}
int rename(const char *from, const char *path) {
    return renameat(AT_FDCWD, from, AT_FDCWD, path);
}
int renameat2(int from_folder, const char *from, int folder, const char *path, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    AT_PATH(RENAME, "rename", folder, path, -1)
    return real(from_folder, from, folder, path, flags);
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    AT_PATH(REMOVE, "unlink", folder, path, -1)
    return real(folder, path, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

static void shift(struct timespec *time) {
    if (!state || !state->clock_ns) return;
    long long ns = time->tv_sec * 1000000000LL + time->tv_nsec + state->clock_ns;
    time->tv_sec = ns / 1000000000LL;
    time->tv_nsec = ns % 1000000000LL;
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int result = real(clock, time);
    if (!result && clock == CLOCK_REALTIME) shift(time);
    return result;
}
time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *to, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) { to->tv_sec = now.tv_sec; to->tv_usec = now.tv_nsec / 1000; }
    return 0;
}
