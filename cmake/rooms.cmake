# The rooms of the house, from the ground up. A room includes only from rooms before it in this list
# (docs/architecture.md); tools/check_rooms.py holds the build to it.
set(STELLA_ROOMS base kernels compress optim net membership exchange control engine)

# stella_room(NAME SOURCES ... LINK ...): a static library stella_<NAME>.
function(stella_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;LINK" ${ARGN})
  add_library(stella_${name} STATIC ${ROOM_SOURCES})
  target_link_libraries(stella_${name} PUBLIC stella_flags ${ROOM_LINK})
endfunction()

# stella_test(NAME SOURCES ... LINK ...): a GoogleTest binary whose cases show up one by one in ctest.
function(stella_test name)
  cmake_parse_arguments(TEST "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${TEST_SOURCES})
  target_link_libraries(${name} PRIVATE ${TEST_LINK} GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 300)
endfunction()

function(stella_check_rooms)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  set(stamp ${CMAKE_BINARY_DIR}/rooms.stamp)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*.?pp ${PROJECT_SOURCE_DIR}/include/stella/*.hpp)
  add_custom_command(OUTPUT ${stamp} DEPENDS ${files} ${PROJECT_SOURCE_DIR}/tools/check_rooms.py
    COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tools/check_rooms.py ${STELLA_ROOMS}
    COMMAND ${CMAKE_COMMAND} -E touch ${stamp}
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} COMMENT "rooms include only from rooms below" VERBATIM)
  add_custom_target(check_rooms ALL DEPENDS ${stamp})
endfunction()

# Every header compiles alone: one generated source file per header.
function(stella_check_headers)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}
       ${PROJECT_SOURCE_DIR}/include/stella/*.hpp ${PROJECT_SOURCE_DIR}/src/*.hpp)
  list(FILTER headers EXCLUDE REGEX "^src/python/")  # needs nanobind
  set(sources)
  foreach(header IN LISTS headers)
    string(REGEX REPLACE "^(include|src)/" "" path ${header})
    string(REPLACE "/" "_" stem ${path})
    set(source ${CMAKE_BINARY_DIR}/header_check/${stem}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${path}\"\n")
    list(APPEND sources ${source})
  endforeach()
  add_library(check_headers OBJECT ${sources})
  target_compile_options(check_headers PRIVATE -O0 -g0)  # -fsyntax-only writes nothing: all would run each time
  target_link_libraries(check_headers PRIVATE stella_flags stella_asio spdlog::spdlog PkgConfig::HWY PkgConfig::XXHASH)
endfunction()
