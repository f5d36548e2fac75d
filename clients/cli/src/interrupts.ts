/** Ctrl-C and SIGTERM, counted. */

/** Calls `listener` with 1, 2, … for each interrupt while `work` runs; the process does not end by them. */
export async function onInterrupt<T>(listener: (count: number) => void, work: () => Promise<T>): Promise<T> {
  let count = 0;
  const handle = () => {
    count += 1;
    listener(count);
  };
  process.on('SIGINT', handle);
  process.on('SIGTERM', handle);
  try {
    return await work();
  } finally {
    process.off('SIGINT', handle);
    process.off('SIGTERM', handle);
  }
}
