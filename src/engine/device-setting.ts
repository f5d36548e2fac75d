/** What computes: the best there is, the processor, the first GPU that can be used, or the GPU with a number. */
export type DeviceSetting = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** True for the text of a device setting. */
export function isDeviceSetting(value: unknown): value is DeviceSetting {
  return typeof value === 'string' && /^(auto|cpu|cuda(:(0|[1-9]\d{0,2}))?)$/.test(value);
}
