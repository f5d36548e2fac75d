#define _GNU_SOURCE
#include "chaos.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC 0x43484153u

/* As it lies in the journal, little-endian; behind it the two paths and the data. */
struct head {
  uint32_t magic;
  uint32_t operation;
  uint64_t begin;
  uint64_t inode;
  uint64_t offset;
  uint32_t path_bytes;
  uint32_t other_bytes;
  uint64_t data_bytes;
};

/* -1: nothing is recorded. */
static int file(void) {
  static int file = -2;
  if (file == -2) {
    const char *path = getenv("CHAOS_JOURNAL");
    file = path == NULL ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  }
  return file;
}

void journal(struct record record) {
  if (file() < 0) return;
  const char *path = record.path == NULL ? "" : record.path;
  const char *other = record.other == NULL ? "" : record.other;
  struct head head = {
      .magic = MAGIC,
      .operation = record.operation,
      .begin = record.begin,
      .inode = record.inode,
      .offset = record.offset,
      .path_bytes = strlen(path),
      .other_bytes = strlen(other),
      .data_bytes = record.data == NULL ? 0 : record.bytes,
  };
  struct iovec parts[] = {
      {&head, sizeof head},
      {(void *)path, head.path_bytes},
      {(void *)other, head.other_bytes},
      {(void *)record.data, head.data_bytes},
  };
  size_t whole = sizeof head + head.path_bytes + head.other_bytes + head.data_bytes;
  if ((size_t)syscall(SYS_writev, file(), parts, 4) != whole) {
    static const char message[] = "chaos: the journal could not be written\n";
    syscall(SYS_write, 2, message, sizeof message - 1);
    abort();
  }
}
