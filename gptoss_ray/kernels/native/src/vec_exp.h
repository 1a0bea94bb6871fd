// exp and exp2 on 16 lanes, on top of an instruction set's arithmetic.
#pragma once

namespace gr::GR_NAMESPACE {

// e^x within about 2 ulp; 0 below -87.3 and for -inf, inf above 88.7228, NaN for NaN.
// Range reduction by ln 2 in two parts and the polynomial of Cephes `expf` (S. Moshier).
GR_INLINE F32 exp(F32 x) {
  const F32 n = round_nearest(mul(x, set(1.44269504088896341f)));
  F32 r = fma(n, set(-0.693359375f), x);
  r = fma(n, set(2.12194440e-4f), r);
  F32 p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = add(fma(mul(r, r), p, r), set(1.0f));
  const F32 value = times_power_of_two(p, n);
  const F32 low = select_less(x, set(-87.3f), zero(), value);
  return select_less(set(88.7228f), x, set(__builtin_inff()), low);
}

// 2^x for x < 128 within about 2 ulp; 0 below -126 and for -inf, NaN for NaN.
// The polynomial of Cephes `exp2f` (S. Moshier).
GR_INLINE F32 exp2(F32 x) {
  const F32 n = round_nearest(x);
  const F32 r = sub(x, n);
  F32 p = set(1.535336188319500e-4f);
  p = fma(p, r, set(1.339887440266574e-3f));
  p = fma(p, r, set(9.618437357674640e-3f));
  p = fma(p, r, set(5.550332471162809e-2f));
  p = fma(p, r, set(2.402264791363012e-1f));
  p = fma(p, r, set(6.931472028550421e-1f));
  p = fma(p, r, set(1.0f));
  return select_less(x, set(-126.0f), zero(), times_power_of_two(p, n));
}

}  // namespace gr::GR_NAMESPACE
