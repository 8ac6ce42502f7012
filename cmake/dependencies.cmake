# Everything comes from the system; nothing is copied in or downloaded. tools/setup.sh installs all of it.

# stella_need(FOUND WHAT PACKAGE): ends the configuration unless FOUND, a variable, is true.
function(stella_need found what package)
  if(NOT ${found})
    message(FATAL_ERROR "${what} was not found; on Debian and Ubuntu: apt-get install ${package}")
  endif()
endfunction()

find_package(Threads REQUIRED)
find_package(OpenSSL 3 QUIET)
stella_need(OPENSSL_FOUND "OpenSSL 3" libssl-dev)
find_package(PkgConfig QUIET)
stella_need(PKG_CONFIG_FOUND "pkg-config" pkg-config)
find_package(spdlog QUIET)
stella_need(spdlog_FOUND "spdlog" libspdlog-dev)
pkg_check_modules(HWY QUIET IMPORTED_TARGET libhwy)
stella_need(HWY_FOUND "Highway (libhwy)" libhwy-dev)
pkg_check_modules(XXHASH QUIET IMPORTED_TARGET libxxhash)
stella_need(XXHASH_FOUND "xxHash" libxxhash-dev)
find_path(ASIO_INCLUDE_DIR asio.hpp)
stella_need(ASIO_INCLUDE_DIR "Asio (asio.hpp)" libasio-dev)

if(STELLA_TESTS)
  find_package(GTest QUIET)
  stella_need(GTest_FOUND "GoogleTest" libgtest-dev)
endif()
if(STELLA_BENCHMARKS)
  find_package(benchmark QUIET)
  stella_need(benchmark_FOUND "Google Benchmark" libbenchmark-dev)
endif()

add_library(stella_asio INTERFACE)
target_include_directories(stella_asio SYSTEM INTERFACE ${ASIO_INCLUDE_DIR})
# Asio 1.22 decides by _GLIBCXX_HAVE_ALIGNED_ALLOC, which only some of the files that include it have seen by then: one
# file would free what another allocated in another way. So it is decided here.
target_compile_definitions(stella_asio INTERFACE ASIO_STANDALONE ASIO_NO_DEPRECATED ASIO_SEPARATE_COMPILATION
                           ASIO_DISABLE_STD_ALIGNED_ALLOC)
# At -O1 GCC inlines operator new of Asio's coroutine frames but not their operator delete, and takes them for unlike:
# the warning is off in every room that includes Asio, and AddressSanitizer (`make asan`) looks for real ones.
target_compile_options(stella_asio INTERFACE "$<$<CXX_COMPILER_ID:GNU>:-Wno-mismatched-new-delete>")
target_link_libraries(stella_asio INTERFACE Threads::Threads OpenSSL::SSL OpenSSL::Crypto)

# Flags of every target of ours. No -march: Highway chooses at run time. No contraction: every machine must
# compute the same bits (docs/architecture.md, "Bit identity").
add_library(stella_flags INTERFACE)
target_compile_options(stella_flags INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -ffp-contract=off
                       "$<$<CXX_COMPILER_ID:GNU>:-Wno-interference-size>")
# At -O3 GCC 12 sees std::vector::insert() and std::string write behind memory that they have just grown.
target_compile_options(stella_flags INTERFACE
                       "$<$<AND:$<CXX_COMPILER_ID:GNU>,$<CONFIG:Release>>:-Wno-stringop-overflow;-Wno-restrict>")
target_include_directories(stella_flags INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
if(STELLA_ASSERTIONS)
  target_compile_options(stella_flags INTERFACE -UNDEBUG)
endif()
if(STELLA_SANITIZE)
  # Not vptr: it looks at memory through a pipe, and takes a test that runs out of descriptors for damage.
  target_compile_options(stella_flags INTERFACE -fsanitize=${STELLA_SANITIZE} -fno-sanitize=vptr
                         -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(stella_flags INTERFACE -fsanitize=${STELLA_SANITIZE})
endif()
if(STELLA_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "libFuzzer is clang's: tools/fuzz.sh finds one, or pass CMAKE_CXX_COMPILER")
  endif()
  target_compile_options(stella_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
