/** Devices as the engine opens them: the processor, alone or as several ranks, or GPUs by number. Several train together. */
export type Devices = 'cpu' | `cpu${'×' | 'x'}${number}` | `cuda:${string}`;

/** What computes: the best there is, the first GPU that can be used, or what is named. */
export type DeviceSetting = 'auto' | 'cuda' | Devices;

/** What activations are kept in on a GPU; the processor computes in f32. */
export const COMPUTE_TYPES = ['bf16', 'f16'] as const;
export type ComputeType = (typeof COMPUTE_TYPES)[number];

/** True for the text of a device setting. */
export function isDeviceSetting(value: unknown): value is DeviceSetting {
  return (
    typeof value === 'string' && /^(auto|cpu([×x][1-9]\d?)?|cuda(:(0|[1-9]\d{0,2})(,(0|[1-9]\d{0,2}))*)?)$/.test(value)
  );
}
