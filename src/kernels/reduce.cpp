#include "kernels/reduce.hpp"

#include <cassert>

#include "kernels/block.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/reduce.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// In all, `count` is a multiple of Lanes(d).
template <class D>
void add_run(D d, const float* values, std::size_t count, float* sum) {
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    hn::StoreU(hn::Add(hn::LoadU(d, sum + i), hn::LoadU(d, values + i)), d, sum + i);
  }
}

template <class D>
void subtract_run(D d, const float* values, std::size_t count, float* from) {
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    hn::StoreU(hn::Sub(hn::LoadU(d, from + i), hn::LoadU(d, values + i)), d, from + i);
  }
}

template <class D>
void divide_run(D d, float* values, std::size_t count, float divisor) {
  const auto by = hn::Set(d, divisor);
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    hn::StoreU(hn::Div(hn::LoadU(d, values + i), by), d, values + i);
  }
}

void add(std::span<const float> values, float* sum) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t tail = values.size() % hn::Lanes(d);
  const std::size_t body = values.size() - tail;
  add_run(d, values.data(), body, sum);
  add_run(one, values.data() + body, tail, sum + body);
}

void subtract(std::span<const float> values, float* from) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t tail = values.size() % hn::Lanes(d);
  const std::size_t body = values.size() - tail;
  subtract_run(d, values.data(), body, from);
  subtract_run(one, values.data() + body, tail, from + body);
}

void scatter_add(std::span<const float> values, std::span<const std::uint32_t> positions, float* sum) {
  const hn::CappedTag<float, kBlock> d;
  for (std::size_t k = 0; k < positions.size(); ++k) {
    add_run(d, values.data() + k * kBlock, kBlock, sum + std::size_t{positions[k]} * kBlock);
  }
}

void divide(std::span<float> values, float divisor) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t tail = values.size() % hn::Lanes(d);
  const std::size_t body = values.size() - tail;
  divide_run(d, values.data(), body, divisor);
  divide_run(one, values.data() + body, tail, divisor);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(add);
HWY_EXPORT(subtract);
HWY_EXPORT(scatter_add);
HWY_EXPORT(divide);

void add(std::span<const float> values, float* sum) { HWY_DYNAMIC_DISPATCH(add)(values, sum); }

void subtract(std::span<const float> values, float* from) { HWY_DYNAMIC_DISPATCH(subtract)(values, from); }

void scatter_add(std::span<const float> values, std::span<const std::uint32_t> positions, float* sum) {
  assert(values.size() == positions.size() * kBlock);
  HWY_DYNAMIC_DISPATCH(scatter_add)(values, positions, sum);
}

void divide(std::span<float> values, float divisor) { HWY_DYNAMIC_DISPATCH(divide)(values, divisor); }

}  // namespace stella
#endif
