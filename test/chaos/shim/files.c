#define _GNU_SOURCE
#include "chaos.h"

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DESCRIPTORS 65536

static _Atomic(char *) paths[DESCRIPTORS];

static const char *root(void) {
  static const char *root;
  if (root == NULL) root = getenv("CHAOS_ROOT");
  return root == NULL ? "" : root;
}

/* Takes `.`, `..` and empty parts out of an absolute path; links are not followed. */
static void normalize(char *path) {
  char *parts[PATH_MAX / 2];
  size_t count = 0;
  char copy[2 * PATH_MAX];
  snprintf(copy, sizeof copy, "%s", path);
  char *rest;
  for (char *part = strtok_r(copy, "/", &rest); part != NULL; part = strtok_r(NULL, "/", &rest)) {
    if (strcmp(part, ".") == 0) continue;
    if (strcmp(part, "..") != 0) parts[count++] = part;
    else if (count > 0) count--;
  }
  char *end = path;
  for (size_t index = 0; index < count; index++) end += sprintf(end, "/%s", parts[index]);
  *end = '\0';
}

const char *below(int folder, const char *path, char *buffer) {
  size_t length = strlen(root());
  if (length == 0 || path == NULL) return NULL;
  char whole[2 * PATH_MAX];
  if (path[0] == '/') {
    snprintf(whole, sizeof whole, "%s", path);
  } else {
    char start[PATH_MAX] = "";
    if (folder == AT_FDCWD) {
      if (getcwd(start, sizeof start) == NULL) return NULL;
    } else {
      const char *known = path_of(folder);
      if (known == NULL) return NULL;
      snprintf(start, sizeof start, "%s%s%s", root(), known[0] == '\0' ? "" : "/", known);
    }
    snprintf(whole, sizeof whole, "%s/%s", start, path);
  }
  normalize(whole);
  if (strncmp(whole, root(), length) != 0 || (whole[length] != '/' && whole[length] != '\0')) return NULL;
  const char *rest = whole + length;
  snprintf(buffer, PATH_MAX, "%s", rest[0] == '/' ? rest + 1 : rest);
  return buffer;
}

/* Old paths are never freed: another thread may still read them, and a server opens few files. */
void remember(int descriptor, const char *path) {
  if (descriptor >= 0 && descriptor < DESCRIPTORS) atomic_store(&paths[descriptor], strdup(path));
}

void forget(int descriptor) {
  if (descriptor >= 0 && descriptor < DESCRIPTORS) atomic_store(&paths[descriptor], NULL);
}

void duplicate(int from, int to) {
  const char *path = path_of(from);
  if (to < 0) return;
  if (path == NULL) forget(to);
  else remember(to, path);
}

const char *path_of(int descriptor) {
  return descriptor >= 0 && descriptor < DESCRIPTORS ? atomic_load(&paths[descriptor]) : NULL;
}

uint64_t inode_of_path(int folder, const char *path) {
  struct stat status;
  return fstatat(folder, path, &status, AT_SYMLINK_NOFOLLOW) == 0 ? status.st_ino : 0;
}

uint64_t inode_of(int descriptor) {
  struct stat status;
  return fstat(descriptor, &status) == 0 ? status.st_ino : 0;
}
