/* Wrapped calls that change what folders hold. */
#define _GNU_SOURCE
#include "wrap.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int rename_at(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
  REAL("renameat2", int, int, const char *, int, const char *, unsigned);
  char buffers[2][PATH_MAX];
  const char *path = below(from_folder, from, buffers[0]);
  const char *other = below(to_folder, to, buffers[1]);
  if (path == NULL || other == NULL) return real(from_folder, from, to_folder, to, flags);
  lock();
  struct verdict verdict = arrive(RENAME, path, other, 0);
  struct record record = {.operation = RENAME, .path = path, .other = other, .inode = inode_of_path(from_folder, from)};
  return settle(real(from_folder, from, to_folder, to, flags), verdict, record);
}
EXPORT int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
EXPORT int renameat(int a, const char *from, int b, const char *to) { return rename_at(a, from, b, to, 0); }
EXPORT int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
  return rename_at(a, from, b, to, flags);
}

static int link_at(int from_folder, const char *from, int to_folder, const char *to, int flags) {
  REAL("linkat", int, int, const char *, int, const char *, int);
  char buffers[2][PATH_MAX];
  const char *path = below(from_folder, from, buffers[0]);
  const char *other = below(to_folder, to, buffers[1]);
  if (path == NULL || other == NULL) return real(from_folder, from, to_folder, to, flags);
  lock();
  struct verdict verdict = arrive(LINK, path, other, 0);
  if (verdict.error != 0) return refuse(verdict.error);
  struct record record = {.operation = LINK, .path = path, .other = other, .inode = inode_of_path(from_folder, from)};
  return settle(real(from_folder, from, to_folder, to, flags), verdict, record);
}
EXPORT int link(const char *from, const char *to) { return link_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
EXPORT int linkat(int a, const char *from, int b, const char *to, int flags) { return link_at(a, from, b, to, flags); }

EXPORT int unlinkat(int folder, const char *path, int flags) {
  REAL("unlinkat", int, int, const char *, int);
  char buffer[PATH_MAX];
  const char *name = below(folder, path, buffer);
  if (name == NULL) return real(folder, path, flags);
  lock();
  enum operation operation = (flags & AT_REMOVEDIR) != 0 ? RMDIR : UNLINK;
  struct verdict verdict = arrive(operation, name, NULL, 0);
  return settle(real(folder, path, flags), verdict, (struct record){.operation = operation, .path = name});
}
EXPORT int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
EXPORT int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
EXPORT int remove(const char *path) {
  int result = unlink(path);
  return result != 0 && errno == EISDIR ? rmdir(path) : result;
}

EXPORT int mkdirat(int folder, const char *path, mode_t mode) {
  REAL("mkdirat", int, int, const char *, mode_t);
  char buffer[PATH_MAX];
  const char *name = below(folder, path, buffer);
  if (name == NULL) return real(folder, path, mode);
  lock();
  struct verdict verdict = arrive(MKDIR, name, NULL, 0);
  if (verdict.error != 0) return refuse(verdict.error);
  int result = real(folder, path, mode);
  struct record record = {.operation = MKDIR, .path = name};
  if (result == 0) record.inode = inode_of_path(folder, path);
  return settle(result, verdict, record);
}
EXPORT int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
