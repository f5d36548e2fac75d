/* What every wrapped call needs. */
#ifndef WRAP_H
#define WRAP_H

#include "chaos.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>

/* The C library's own function of a name. */
#define REAL(name, result, ...)                                              \
  static result (*real)(__VA_ARGS__);                                        \
  if (real == NULL) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define EXPORT __attribute__((visibility("default")))

/* The third argument of a call whose type depends on the second. */
#define ARGUMENT(last)                                                       \
  va_list more;                                                              \
  va_start(more, last);                                                      \
  void *argument = va_arg(more, void *);                                     \
  va_end(more)

/* Ends an operation: records it where it succeeded, and gives its result back with its `errno`. */
static inline int settle(int result, struct verdict verdict, struct record record) {
  int error = errno;
  record.begin = verdict.begin;
  if (result == 0) journal(record);
  depart(verdict);
  unlock();
  errno = error;
  return result;
}

static inline int refuse(int error) {
  unlock();
  errno = error;
  return -1;
}

#endif
