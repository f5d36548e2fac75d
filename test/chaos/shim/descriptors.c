/* Wrapped calls that open, close and copy descriptors. Each one that is about the folder holds the lock, so that the journal has the order in which things happened. */
#define _GNU_SOURCE
#include "wrap.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_file(int folder, const char *path, int flags, mode_t mode) {
  REAL("openat64", int, int, const char *, int, ...);
  char buffer[PATH_MAX];
  const char *name = below(folder, path, buffer);
  if (name == NULL) {
    int descriptor = real(folder, path, flags, mode);
    if (descriptor >= 0) forget(descriptor);
    return descriptor;
  }
  lock();
  bool creates = (flags & O_CREAT) != 0 && inode_of_path(folder, path) == 0;
  bool cuts = (flags & O_TRUNC) != 0 && !creates;
  struct verdict verdict = {0};
  if (creates || cuts) verdict = arrive(creates ? CREATE : TRUNCATE, name, NULL, 0);
  if (verdict.error != 0) return refuse(verdict.error);
  int descriptor = real(folder, path, flags, mode);
  int error = errno;
  if (descriptor >= 0) {
    remember(descriptor, name);
    struct record record = {.operation = creates ? CREATE : TRUNCATE, .begin = verdict.begin, .path = name};
    record.inode = inode_of(descriptor);
    if (creates || cuts) journal(record);
  }
  depart(verdict);
  unlock();
  errno = error;
  return descriptor;
}

#define MODE(flags, mode)                                                    \
  mode_t mode = 0;                                                           \
  if (((flags) & (O_CREAT | O_TMPFILE)) != 0) {                              \
    va_list more;                                                            \
    va_start(more, flags);                                                   \
    mode = va_arg(more, mode_t);                                             \
    va_end(more);                                                            \
  }

EXPORT int open(const char *path, int flags, ...) {
  MODE(flags, mode);
  return open_file(AT_FDCWD, path, flags, mode);
}
EXPORT int open64(const char *path, int flags, ...) {
  MODE(flags, mode);
  return open_file(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
EXPORT int openat(int folder, const char *path, int flags, ...) {
  MODE(flags, mode);
  return open_file(folder, path, flags, mode);
}
EXPORT int openat64(int folder, const char *path, int flags, ...) {
  MODE(flags, mode);
  return open_file(folder, path, flags | O_LARGEFILE, mode);
}
EXPORT int creat(const char *path, mode_t mode) { return open_file(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
EXPORT int creat64(const char *path, mode_t mode) { return creat(path, mode); }

EXPORT int close(int descriptor) {
  REAL("close", int, int);
  const char *path = path_of(descriptor);
  if (path == NULL) return real(descriptor);
  lock();
  struct verdict verdict = arrive(CLOSE, path, NULL, 0);
  forget(descriptor);
  int result = real(descriptor);
  int error = errno;
  depart(verdict);
  unlock();
  errno = error;
  return result;
}

EXPORT int dup(int from) {
  REAL("dup", int, int);
  int to = real(from);
  duplicate(from, to);
  return to;
}
EXPORT int dup2(int from, int to) {
  REAL("dup2", int, int, int);
  int result = real(from, to);
  duplicate(from, result);
  return result;
}
EXPORT int dup3(int from, int to, int flags) {
  REAL("dup3", int, int, int, int);
  int result = real(from, to, flags);
  duplicate(from, result);
  return result;
}

static int control_file(int descriptor, int command, void *argument) {
  REAL("fcntl64", int, int, int, ...);
  int result = real(descriptor, command, argument);
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) duplicate(descriptor, result);
  return result;
}
EXPORT int fcntl(int descriptor, int command, ...) {
  ARGUMENT(command);
  return control_file(descriptor, command, argument);
}
EXPORT int fcntl64(int descriptor, int command, ...) {
  ARGUMENT(command);
  return control_file(descriptor, command, argument);
}
