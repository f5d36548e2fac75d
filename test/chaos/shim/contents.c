/* Wrapped calls that change what files hold, or write it through to the disk. */
#define _GNU_SOURCE
#include "wrap.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* SQLite makes its shared index again after a crash: it counts as an operation, its contents are no one's concern. */
static bool is_kept(const char *path) {
  size_t length = strlen(path);
  return length < 4 || strcmp(path + length - 4, "-shm") != 0;
}

/* @param at -1: where the descriptor stands. */
static ssize_t write_bytes(int descriptor, const void *data, size_t bytes, off64_t at) {
  REAL("pwrite64", ssize_t, int, const void *, size_t, off64_t);
  static ssize_t (*append)(int, const void *, size_t);
  if (append == NULL) append = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
  const char *path = path_of(descriptor);
  if (path == NULL) return at < 0 ? append(descriptor, data, bytes) : real(descriptor, data, bytes, at);
  lock();
  struct verdict verdict = arrive(WRITE, path, NULL, bytes);
  if (verdict.error != 0) return refuse(verdict.error);
  ssize_t written = at < 0 ? append(descriptor, data, verdict.bytes) : real(descriptor, data, verdict.bytes, at);
  int error = errno;
  if (written > 0 && is_kept(path)) {
    struct record record = {.operation = WRITE, .begin = verdict.begin, .inode = inode_of(descriptor), .path = path};
    record.offset = (uint64_t)(at < 0 ? lseek64(descriptor, 0, SEEK_CUR) - written : at);
    record.data = data;
    record.bytes = (size_t)written;
    journal(record);
  }
  depart(verdict);
  unlock();
  errno = error;
  return written;
}

static ssize_t write_parts(int descriptor, const struct iovec *parts, int count, off64_t at) {
  size_t bytes = 0;
  for (int index = 0; index < count; index++) bytes += parts[index].iov_len;
  char *whole = malloc(bytes == 0 ? 1 : bytes);
  if (whole == NULL) return refuse(ENOMEM);
  size_t done = 0;
  for (int index = 0; index < count; done += parts[index++].iov_len)
    memcpy(whole + done, parts[index].iov_base, parts[index].iov_len);
  ssize_t written = write_bytes(descriptor, whole, bytes, at);
  int error = errno;
  free(whole);
  errno = error;
  return written;
}

EXPORT ssize_t write(int descriptor, const void *data, size_t bytes) { return write_bytes(descriptor, data, bytes, -1); }
EXPORT ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t at) {
  return write_bytes(descriptor, data, bytes, at);
}
EXPORT ssize_t pwrite64(int descriptor, const void *data, size_t bytes, off64_t at) {
  return write_bytes(descriptor, data, bytes, at);
}
EXPORT ssize_t writev(int descriptor, const struct iovec *parts, int count) {
  REAL("writev", ssize_t, int, const struct iovec *, int);
  return path_of(descriptor) == NULL ? real(descriptor, parts, count) : write_parts(descriptor, parts, count, -1);
}
EXPORT ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t at) {
  REAL("pwritev64", ssize_t, int, const struct iovec *, int, off64_t);
  return path_of(descriptor) == NULL ? real(descriptor, parts, count, at) : write_parts(descriptor, parts, count, at);
}
EXPORT ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t at) {
  return pwritev(descriptor, parts, count, at);
}

EXPORT int ftruncate64(int descriptor, off64_t length) {
  REAL("ftruncate64", int, int, off64_t);
  const char *path = path_of(descriptor);
  if (path == NULL || !is_kept(path)) return real(descriptor, length);
  lock();
  struct verdict verdict = arrive(TRUNCATE, path, NULL, 0);
  struct record record = {.operation = TRUNCATE, .inode = inode_of(descriptor), .offset = (uint64_t)length, .path = path};
  return settle(real(descriptor, length), verdict, record);
}
EXPORT int ftruncate(int descriptor, off_t length) { return ftruncate64(descriptor, length); }

/* Ways to fill a file that bypass the calls above: refused, as file systems do that lack them, so that callers write instead. */
EXPORT ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t bytes, unsigned flags) {
  REAL("copy_file_range", ssize_t, int, off64_t *, int, off64_t *, size_t, unsigned);
  if (path_of(to) == NULL) return real(from, at, to, there, bytes, flags);
  errno = ENOSYS;
  return -1;
}
/* libuv copies and closes by the number of the call. */
EXPORT long syscall(long number, ...) {
  REAL("syscall", long, long, ...);
  va_list more;
  va_start(more, number);
  long all[6];
  for (int index = 0; index < 6; index++) all[index] = va_arg(more, long);
  va_end(more);
  if (number == SYS_close) return close((int)all[0]);
  if (number != SYS_copy_file_range || path_of((int)all[2]) == NULL)
    return real(number, all[0], all[1], all[2], all[3], all[4], all[5]);
  errno = ENOSYS;
  return -1;
}
EXPORT ssize_t sendfile64(int to, int from, off64_t *at, size_t bytes) {
  REAL("sendfile64", ssize_t, int, int, off64_t *, size_t);
  if (path_of(to) == NULL) return real(to, from, at, bytes);
  errno = EINVAL;
  return -1;
}
EXPORT ssize_t sendfile(int to, int from, off_t *at, size_t bytes) { return sendfile64(to, from, at, bytes); }
EXPORT int ioctl(int descriptor, unsigned long request, ...) {
  REAL("ioctl", int, int, unsigned long, ...);
  ARGUMENT(request);
  if (path_of(descriptor) == NULL) return real(descriptor, request, argument);
  errno = EOPNOTSUPP;
  return -1;
}
EXPORT int fallocate64(int descriptor, int mode, off64_t at, off64_t bytes) {
  REAL("fallocate64", int, int, int, off64_t, off64_t);
  if (path_of(descriptor) == NULL) return real(descriptor, mode, at, bytes);
  errno = EOPNOTSUPP;
  return -1;
}
EXPORT int fallocate(int descriptor, int mode, off_t at, off_t bytes) { return fallocate64(descriptor, mode, at, bytes); }
EXPORT int posix_fallocate64(int descriptor, off64_t at, off64_t bytes) {
  REAL("posix_fallocate64", int, int, off64_t, off64_t);
  return path_of(descriptor) == NULL ? real(descriptor, at, bytes) : EOPNOTSUPP;
}
EXPORT int posix_fallocate(int descriptor, off_t at, off_t bytes) { return posix_fallocate64(descriptor, at, bytes); }

static int sync_file(const char *name, int descriptor) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  const char *path = path_of(descriptor);
  if (path == NULL) return real(descriptor);
  lock();
  struct verdict verdict = arrive(SYNC, path, NULL, 0);
  struct record record = {.operation = SYNC, .inode = inode_of(descriptor), .path = path};
  /* The journal alone says what is durable: the real disk would only be slow. */
  return settle(0, verdict, record);
}
EXPORT int fsync(int descriptor) { return sync_file("fsync", descriptor); }
EXPORT int fdatasync(int descriptor) { return sync_file("fdatasync", descriptor); }
