/** What computes: the best there is, the processor, the first GPU that can be used, or the GPU with a number. */
export type DeviceSetting = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** What activations are kept in on a GPU; the processor computes in f32. */
export const COMPUTE_TYPES = ['bf16', 'f16'] as const;
export type ComputeType = (typeof COMPUTE_TYPES)[number];

/** True for the text of a device setting. */
export function isDeviceSetting(value: unknown): value is DeviceSetting {
  return typeof value === 'string' && /^(auto|cpu|cuda(:(0|[1-9]\d{0,2}))?)$/.test(value);
}
