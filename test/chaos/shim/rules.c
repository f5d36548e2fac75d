#define _GNU_SOURCE
#include "chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A page that the harness and the server share: `control.ts` has the same fields in the same order. */
struct control {
  uint64_t operations; /* seen, without closing */
  uint64_t allocations; /* seen of those that need room on the disk */
  uint64_t full_from; /* number of the first allocation that finds the disk full; 0: none */
  uint64_t full_until; /* number of the first one that finds room again; 0: none does */
  uint64_t budget; /* 1 + bytes that can still be written; 0: any */
  uint64_t refused; /* allocations that found no room */
};

/* CHAOS_KILL: `operation glob n when`, such as `rename data/adapters/.* 1 before`; when: before, after, half. */
static struct {
  char operation[16];
  char glob[256];
  unsigned long left; /* 0: done, or no rule */
  char when[16];
} rule;

static struct control nothing;
static struct control *control = &nothing;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const char *const NAMES[] = {"",     "create", "truncate", "write", "rename", "unlink",
                                    "mkdir", "sync",   "link",     "rmdir", "close"};

__attribute__((constructor)) static void read_rules(void) {
  const char *kill = getenv("CHAOS_KILL");
  if (kill != NULL && sscanf(kill, "%15s %255s %lu %15s", rule.operation, rule.glob, &rule.left, rule.when) != 4) {
    fprintf(stderr, "chaos: CHAOS_KILL: expected `operation glob n when`, found `%s`\n", kill);
    _exit(64);
  }
  const char *path = getenv("CHAOS_CONTROL");
  if (path == NULL) return;
  int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
  void *page = file < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (page == MAP_FAILED) {
    fprintf(stderr, "chaos: CHAOS_CONTROL: expected a file of 4096 bytes at %s: %s\n", path, strerror(errno));
    _exit(64);
  }
  control = page;
}

void lock(void) { pthread_mutex_lock(&mutex); }
void unlock(void) { pthread_mutex_unlock(&mutex); }

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

static bool allocates(enum operation operation) {
  return operation == CREATE || operation == WRITE || operation == MKDIR || operation == LINK;
}

/* How much of an allocation there is room for. */
static size_t room(size_t bytes, bool *full) {
  uint64_t number = ++control->allocations;
  bool before = control->full_from == 0 || number < control->full_from;
  bool behind = control->full_until != 0 && number >= control->full_until;
  *full = !before && !behind;
  if (!*full && control->budget != 0 && bytes > 0) {
    uint64_t left = control->budget - 1;
    *full = left == 0;
    bytes = bytes < left ? bytes : left;
    if (!*full) control->budget -= bytes;
  }
  if (*full) control->refused++;
  return bytes;
}

static bool matches(enum operation operation, const char *path, const char *other) {
  if (rule.left == 0) return false;
  bool any = strcmp(rule.operation, "any") == 0 && operation != CLOSE;
  if (!any && strcmp(rule.operation, NAMES[operation]) != 0) return false;
  bool here = fnmatch(rule.glob, path, 0) == 0 || (other != NULL && fnmatch(rule.glob, other, 0) == 0);
  return here && --rule.left == 0;
}

struct verdict arrive(enum operation operation, const char *path, const char *other, size_t bytes) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  struct verdict verdict = {.bytes = bytes, .begin = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec};
  if (operation != CLOSE) control->operations++;
  if (matches(operation, path, other)) {
    if (strcmp(rule.when, "before") == 0) die();
    verdict.die_afterwards = true;
    if (strcmp(rule.when, "half") == 0) verdict.bytes = bytes / 2;
  }
  if (allocates(operation)) {
    bool full;
    verdict.bytes = room(verdict.bytes, &full);
    if (full) verdict.error = ENOSPC;
  }
  return verdict;
}

void depart(struct verdict verdict) {
  if (verdict.die_afterwards) die();
}
