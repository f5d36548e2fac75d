/** The preloaded library (`shim/*.c`): built here, and told what to do through the environment. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const sources = fileURLToPath(new URL('./shim/', import.meta.url));
const builds = fileURLToPath(new URL('../../target/chaos/', import.meta.url));

/** Compiles the library where its sources are newer. @returns Its path. @throws Error where there is no compiler */
function buildShim(): string {
  if (process.platform !== 'linux') {
    throw new Error(`the crash tests need Linux with glibc: they preload a library; this is ${process.platform}`);
  }
  const names = readdirSync(sources).map((name) => join(sources, name));
  const library = join(builds, 'shim.so');
  const newest = Math.max(...names.map((name) => statSync(name).mtimeMs));
  if (existsSync(library) && statSync(library).mtimeMs > newest) return library;
  mkdirSync(builds, { recursive: true });
  const made = `${library}.${process.pid}`;
  const flags = ['-O2', '-Wall', '-Wextra', '-Werror', '-fPIC', '-shared', '-fvisibility=hidden'];
  const files = names.filter((name) => name.endsWith('.c'));
  try {
    execFileSync('cc', [...flags, '-o', made, ...files, '-ldl', '-lpthread'], {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new Error(
      'the crash tests need a C compiler: expected `cc` on the PATH (as Rust needs it to link), found none',
      {
        cause: error,
      },
    );
  }
  renameSync(made, library);
  return library;
}

/** The moment of a kill: at the `count`-th operation of a kind on a path that fits. */
export interface KillPoint {
  readonly operation:
    | 'any'
    | 'create'
    | 'truncate'
    | 'write'
    | 'rename'
    | 'unlink'
    | 'mkdir'
    | 'sync'
    | 'rmdir'
    | 'close';
  /** fnmatch's pattern of the path below the watched folder; of a rename, either path. `*` matches slashes, too. */
  readonly glob: string;
  readonly count: number;
  /** `half`: a write is cut in two, and the first half is done. */
  readonly when: 'before' | 'after' | 'half';
}

/** What happens below a folder. */
export interface Disturbance {
  /** Absolute, without links. */
  readonly root: string;
  /** Where every operation is recorded; absent: nowhere. */
  readonly journal?: string | undefined;
  /** As `writeControl` made it. */
  readonly control?: string | undefined;
  readonly kill?: KillPoint | undefined;
}

/** The environment of a process whose files are watched. */
export function shimEnvironment({ root, journal, control, kill }: Disturbance): Record<string, string> {
  return {
    LD_PRELOAD: buildShim(),
    // libuv's other way to files bypasses the C library.
    UV_USE_IO_URING: '0',
    CHAOS_ROOT: root,
    ...(journal === undefined ? {} : { CHAOS_JOURNAL: journal }),
    ...(control === undefined ? {} : { CHAOS_CONTROL: control }),
    ...(kill === undefined ? {} : { CHAOS_KILL: `${kill.operation} ${kill.glob} ${kill.count} ${kill.when}` }),
  };
}
