// Arrays that start on a cache line, for the kernels.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

namespace stella {

inline constexpr std::size_t kCacheLine = 64;                   // bytes
inline constexpr std::size_t kHugePage = std::size_t{2} << 20;  // bytes, of x86-64

// An owned array of `size` trivially copyable values, all zero at first, aligned to a cache line. Movable.
//
// One that fills huge pages asks for them: blocks far apart in it then cost a cache miss, but no page walk.
// And such arrays start at different places of their pages: where several of them are passed over side by
// side, their lines would otherwise compete for the same places of the caches. It reserves up to 2 MiB of
// addresses more, no memory; the kernel may take its time to find huge pages.
template <class T>
requires std::is_trivially_copyable_v<T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(std::size_t size) : AlignedArray(uninitialized(size)) {
    std::fill_n(data_.get(), size, T{});
  }

  // Its values are anything, for one that is written in full before it is read.
  static AlignedArray uninitialized(std::size_t size) {
    AlignedArray array;
    array.allocate(size);
    return array;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](std::size_t i) { return data_.get()[i]; }
  const T& operator[](std::size_t i) const { return data_.get()[i]; }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }
  operator std::span<T>() { return span(); }
  operator std::span<const T>() const { return span(); }

 private:
  void allocate(std::size_t size) {
    size_ = size;
    const std::size_t bytes = (size * sizeof(T) + kCacheLine - 1) / kCacheLine * kCacheLine;
    if (bytes == 0) return;
    const bool large = bytes >= kHugePage;
    void* memory = nullptr;
    if (posix_memalign(&memory, large ? kHugePage : kCacheLine, bytes + (large ? kPlaces * kPlace : 0)) !=
        0) {
      throw std::bad_alloc();
    }
    const std::size_t offset = large ? place_of(memory) : 0;
    data_ = {reinterpret_cast<T*>(static_cast<char*>(memory) + offset), Free{offset}};
    if (large) madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // may refuse: slower, no worse
  }

  static constexpr std::size_t kPlaces = 16, kPlace = 5 * kCacheLine;

  // Bytes from the start of what was allocated to the first value: by the upper bits of a product, so that
  // arrays at any regular distance differ.
  static std::size_t place_of(const void* memory) {
    const std::uint64_t page = reinterpret_cast<std::uintptr_t>(memory) / kHugePage;
    return (page * 0x9e3779b97f4a7c15 >> 60) % kPlaces * kPlace;
  }

  struct Free {
    std::size_t offset = 0;  // from what was allocated
    void operator()(T* pointer) const { std::free(reinterpret_cast<char*>(pointer) - offset); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace stella
