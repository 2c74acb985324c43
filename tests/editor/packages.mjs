// The packages, which scripts/editor.sh installs outside of the source.

import { createRequire } from 'node:module';

const directory = process.env.HOLDFAST_EDITOR_PACKAGES;
if (!directory) {
  throw new Error('HOLDFAST_EDITOR_PACKAGES names no directory; ./build.sh test editor does');
}

/** As Node's own, from the packages' directory. */
export const require = createRequire(`${directory}/`);
