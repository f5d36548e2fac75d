/** What a process has used until now, as Linux counts it. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

const TICKS_PER_SECOND = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));

const MEBIBYTE = 2 ** 20;

/** The fields of /proc/PID/stat where counting starts with 1: user and system time in ticks, ended threads included. */
const [USER_TIME, SYSTEM_TIME] = [14, 15];

/** Processor seconds of all threads of a process, user and system, to 10 ms. */
export function processorSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The second field is the name in parentheses, which may hold anything.
  const rest = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ticks = (field: number) => Number(rest[field - 3]);
  return (ticks(USER_TIME) + ticks(SYSTEM_TIME)) / TICKS_PER_SECOND;
}

/** What the engine calls its threads. */
const ENGINE_THREAD = /^luthier-/;

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // The thread has ended meanwhile.
    return null;
  }
}

/**
 * Processor seconds of a process's threads that are not the engine's: JavaScript, its helpers, the network. Exact to microseconds,
 * and free of the engine's waiting, in which its threads look out for each other without sleeping. Ended threads are missing.
 */
export function secondsAroundEngine(pid: number): number {
  const nanoseconds = readdirSync(`/proc/${pid}/task`).map((thread) => {
    const name = readOrNull(`/proc/${pid}/task/${thread}/comm`);
    if (name === null || ENGINE_THREAD.test(name)) return 0;
    return Number(readOrNull(`/proc/${pid}/task/${thread}/schedstat`)?.split(' ')[0] ?? 0);
  });
  return nanoseconds.reduce((sum, value) => sum + value, 0) / 1e9;
}

function statusMebibytes(pid: number, field: string): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const kibibytes = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1];
  if (kibibytes === undefined) throw new Error(`/proc/${pid}/status has no ${field}`);
  return (Number(kibibytes) * 1024) / MEBIBYTE;
}

/** Memory that a process holds now, in MiB. */
export const residentMebibytes = (pid: number): number => statusMebibytes(pid, 'VmRSS');

/** The most that it ever held, in MiB. */
export const peakResidentMebibytes = (pid: number): number => statusMebibytes(pid, 'VmHWM');

/** How many processes wanted a processor on average over the last minute: what else the machine did. */
export const loadAverage = (): number => Number(readFileSync('/proc/loadavg', 'utf8').split(' ')[0]);

/** Seconds since `began`, which is a `performance.now()`. */
export const secondsSince = (began: number): number => (performance.now() - began) / 1000;
