import type { CallRecord } from '../rpc/active-calls.ts';
import type { Logger } from './logger.ts';

/** Health checks come every few seconds: they are worth a line only where everything is logged. */
const QUIET = /^\/grpc\./;

/** One line for each call. What went wrong inside the server is logged in full here and nowhere else. */
export function callLog(logger: Logger): (record: CallRecord) => void {
  return ({ method, status, reason, peer, milliseconds, callId, error }) => {
    const fields = {
      method: method.slice(1),
      status,
      ...(reason === null ? {} : { reason }),
      ms: Math.round(milliseconds * 10) / 10,
      peer,
      call: callId,
    };
    if (error !== null) logger.error({ ...fields, err: error }, 'call');
    else if (QUIET.test(method)) logger.debug(fields, 'call');
    else logger.info(fields, 'call');
  };
}
