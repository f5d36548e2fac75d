/** What GPUs a machine has, as the addon tells. Fields as in `engine/binding/src/gpus.rs`. */

/** One GPU as this process sees it: `CUDA_VISIBLE_DEVICES` hides and reorders them. */
export interface Gpu {
  /** The n of `cuda:n`. */
  readonly index: number;
  readonly name: string;
  /** Such as `9.0`. */
  readonly computeCapability: string;
  readonly totalMemoryBytes: number;
  /** Null where NVIDIA's management library does not say. */
  readonly freeMemoryBytes: number | null;
  /** Why the engine cannot compute on it; null where it can. */
  readonly problem: string | null;
}

/** The answer to looking for GPUs. */
export interface GpuProbe {
  /** Of NVIDIA's driver, such as `580.95.05`; null where its management library does not say. */
  readonly driverVersion: string | null;
  /** Highest CUDA version the driver supports, such as `13.0`; null without a driver. */
  readonly cudaVersion: string | null;
  /** All that were found, also those that cannot be used. */
  readonly gpus: readonly Gpu[];
  /** Why none can be used, and what to do; null where at least one can. */
  readonly problem: string | null;
}
