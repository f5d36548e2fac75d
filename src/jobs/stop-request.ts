/** Why a job that is being worked on is asked to stop: the reason of its signal. */
export class StopRequest extends Error {
  override readonly name = 'StopRequest';
  /** `cancel`: for good. `pause`: until somebody resumes it. `close`: until a server runs again. The last two leave a checkpoint. */
  readonly kind: 'cancel' | 'pause' | 'close';

  constructor(kind: StopRequest['kind']) {
    super(`the job is asked to stop: ${kind}`);
    this.kind = kind;
  }
}

/** Of a job's signal; null where it was not asked to stop. */
export function stopRequestOf(signal: AbortSignal): StopRequest | null {
  return signal.reason instanceof StopRequest ? signal.reason : null;
}
