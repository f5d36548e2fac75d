/* A library to preload into a server: counts, records and disturbs what it does to files below one folder. Linux, glibc. */
#ifndef CHAOS_H
#define CHAOS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What can be done to a file or a folder. The numbers are the journal's; `journal.ts` knows them, too. */
enum operation { CREATE = 1, TRUNCATE, WRITE, RENAME, UNLINK, MKDIR, SYNC, LINK, RMDIR, CLOSE };

/* What is to become of an operation. `error`: fails with it. `bytes`: of a write, how many are let through. */
struct verdict {
  int error;
  size_t bytes;
  bool die_afterwards;
  uint64_t begin; /* nanoseconds of CLOCK_MONOTONIC */
};

/* files.c: which descriptors and paths are below the folder. Paths are relative to it. */

/* NULL where the path leads elsewhere; else within `buffer`, which holds PATH_MAX bytes. The folder itself is "". */
const char *below(int folder_descriptor, const char *path, char *buffer);
void remember(int descriptor, const char *path);
void forget(int descriptor);
void duplicate(int from, int to);
/* NULL for any other descriptor. */
const char *path_of(int descriptor);
/* 0 where nothing is there. */
uint64_t inode_of_path(int folder_descriptor, const char *path);
uint64_t inode_of(int descriptor);

/* rules.c: called with the lock held, around every operation. */

void lock(void);
void unlock(void);
/* @param other The second path of a rename or a link, else NULL. @param bytes Of a write. */
struct verdict arrive(enum operation operation, const char *path, const char *other, size_t bytes);
void depart(struct verdict verdict);

/* journal.c: one record for every operation that was done. */

struct record {
  enum operation operation;
  uint64_t begin;
  uint64_t inode;
  uint64_t offset;
  const char *path;
  const char *other;
  const void *data;
  size_t bytes;
};

void journal(struct record record);

#endif
