import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GROUPS, LINES, STATUS } from '../src/colors.ts';

/** What people without one kind of cone see, in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1). */
const SIGHTS = {
  all: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  protanopia: [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
  deuteranopia: [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
  tritanopia: [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
};

/** A colour in CIELAB, as a kind of sight has it. */
function lab(color: string, sight: number[][]): number[] {
  const linear = [1, 3, 5].map((at) => {
    const share = Number.parseInt(color.slice(at, at + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  const mix = (row: number[], of: number[]) => row.reduce((sum, each, index) => sum + each * (of[index] ?? 0), 0);
  const seen = sight.map((row) => Math.min(1, Math.max(0, mix(row, linear))));
  const xyz = [mix([0.4124, 0.3576, 0.1805], seen) / 0.95047, mix([0.2126, 0.7152, 0.0722], seen), mix([0.0193, 0.1192, 0.9505], seen) / 1.08883];
  const [x = 0, y = 0, z = 0] = xyz.map((value) => (value > 0.008856 ? Math.cbrt(value) : 7.787 * value + 16 / 116));
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

function nearest(colors: string[], sight: number[][], together: (one: number, other: number) => boolean): number {
  const seen = colors.map((color) => lab(color, sight));
  const apart = seen.flatMap((one, index) => seen.map((other, at) => (at > index && together(index, at) ? Math.hypot(...one.map((each, axis) => each - (other[axis] ?? 0))) : Infinity)));
  return Math.min(...apart);
}

// A difference of 2.3 is just seen; what has to be told apart from a legend needs several times that.
for (const [name, sight] of Object.entries(SIGHTS)) {
  test(`colours are told apart: ${name}`, () => {
    for (const set of [STATUS, LINES]) assert.ok(nearest(Object.values(set), sight, () => true) > 15);
    assert.ok(nearest(GROUPS, sight, (one, other) => other === one + 1) > 12, 'neighbours in a bar');
    assert.ok(nearest(GROUPS, sight, () => true) > 7.5);
  });
}
