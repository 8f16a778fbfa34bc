from __future__ import annotations

from pathlib import Path

import pytest

from tests import fake_tools
from turbobench import vulkan_sdk
from turbobench.backends import vulkan
from turbobench.errors import ConfigError
from turbobench.toolchain import find_compiler

_HEADER = """\
#define VK_HEADER_VERSION 309
#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 4, VK_HEADER_VERSION)
"""
_LAYER_SETTING = "typedef struct VkLayerSettingEXT VkLayerSettingEXT;\n"
_ALL = (
    "GL_KHR_cooperative_matrix",
    "GL_EXT_integer_dot_product",
    "GL_NV_cooperative_matrix2",
    "GL_NV_cooperative_matrix_decode_vector",
)


@pytest.fixture(autouse=True)
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the folder of an SDK be all there is; the test fills it."""
    fake_tools.no_gpu_settings(monkeypatch)
    monkeypatch.setattr(vulkan_sdk, "_PREFIXES", (tmp_path / "none",))
    monkeypatch.setenv("VULKAN_SDK", str(tmp_path / "sdk"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return tmp_path / "sdk"


def _headers(sdk: Path, text: str = _HEADER + _LAYER_SETTING) -> None:
    for name, content in (
        ("include/vulkan/vulkan_core.h", text),
        ("share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake", ""),
        ("lib/libvulkan.so", ""),
    ):
        (sdk / name).parent.mkdir(parents=True, exist_ok=True)
        (sdk / name).write_text(content)


def _glslc(sdk: Path, *known: str, version: str = "2025.2") -> None:
    fake_tools.script(
        sdk / "bin",
        "glslc",
        f"""case "$1" in --version) echo 'shaderc v{version} v2025.2'; exit 0 ;; esac
read -r version; read -r hash name rest
for known in {" ".join(known)}; do [ "$known" = "$name" ] && exit 0; done
echo "error: '#extension' : extension not supported: $name" >&2; exit 1""",
    )


def _device(name: str, kind: int, uuid: str) -> dict[str, object]:
    return {"index": 0, "type": kind, "name": name, "driver": "Mesa 25.0.7", "memory_mib": 16384, "uuid": uuid}


def test_a_complete_sdk_is_enough_and_is_what_cmake_gets(sdk: Path) -> None:
    _headers(sdk)
    _glslc(sdk, *_ALL)
    assert vulkan.unavailable() is None
    compiler = vulkan.device_compiler()
    assert compiler is not None
    assert compiler.version == "glslc 2025.2, Vulkan headers 1.4.309"
    assert f"-DVulkan_GLSLC_EXECUTABLE={sdk / 'bin' / 'glslc'}" in compiler.cmake_flags
    assert f"-DVulkan_LIBRARY={sdk / 'lib' / 'libvulkan.so'}" in compiler.cmake_flags


def test_each_missing_part_is_named_with_the_places_searched(sdk: Path) -> None:
    _headers(sdk)
    reason = vulkan.unavailable() or ""
    assert reason.startswith("the shader compiler glslc not found in")
    assert str(sdk) in reason
    (sdk / "share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake").unlink()
    (sdk / "lib/libvulkan.so").unlink()
    _changed()
    assert (vulkan.unavailable() or "").startswith("SPIR-V headers, the Vulkan loader's library, the shader compiler")
    assert vulkan.device_compiler() is None


def test_packages_that_would_be_refused_are_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, advice in (("12", "newer distribution"), ("13", "sudo apt-get install libvulkan-dev")):
        monkeypatch.setattr("turbobench.host.os_release", lambda v=version: {"ID": "debian", "VERSION_ID": v})
        _changed()
        assert advice in (vulkan.unavailable() or "")


def test_headers_without_the_newest_type_are_too_old(sdk: Path) -> None:
    _headers(sdk, _HEADER.replace("309", "239"))
    _glslc(sdk, *_ALL)
    reason = vulkan.unavailable() or ""
    assert "1.4.239" in reason
    assert "VkLayerSettingEXT" in reason
    assert "VULKAN_SDK" in reason


def test_a_glslc_without_matrix_units_is_too_old(sdk: Path) -> None:
    _headers(sdk)
    _glslc(sdk, "GL_EXT_integer_dot_product", version="2023.2")
    reason = vulkan.unavailable() or ""
    assert "2023.2" in reason
    assert "matrix units" in reason
    assert "integer dot products" not in reason


def test_what_glslc_could_do_better_is_a_note_on_every_result(sdk: Path) -> None:
    _headers(sdk)
    _glslc(sdk, *_ALL[:3])
    assert vulkan.unavailable() is None
    assert any("four values at a time" in note for note in vulkan.notes(find_compiler()))
    _glslc(sdk, *_ALL)
    _changed()
    assert not any("glslc" in note for note in vulkan.notes(find_compiler()))


def test_an_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="every GPU"):
        vulkan.arch("90")


def test_a_cpu_is_no_gpu_unless_it_is_asked_for() -> None:
    lavapipe = _device("llvmpipe", 4, "aa")
    assert vulkan.choose([lavapipe], None) == ()
    assert [gpu.name for gpu in vulkan.choose([lavapipe], "0")] == ["llvmpipe"]


def test_a_gpu_with_two_drivers_is_taken_once() -> None:
    found = [_device("RADV", 2, "aa"), _device("AMDVLK", 2, "aa"), _device("iGPU", 1, "bb"), _device("cpu", 4, "cc")]
    assert [gpu.name for gpu in vulkan.choose(found, None)] == ["RADV", "iGPU"]
    assert [gpu.name for gpu in vulkan.choose(found, "3, 0")] == ["cpu", "RADV"]
    assert vulkan.choose(found, None)[0].label == "RADV (16 GiB)"


def test_a_machine_without_a_loader_has_no_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_tools.script(tmp_path, "probe", "echo 'there is no Vulkan loader' >&2; exit 3")
    monkeypatch.setattr("sys.executable", str(tmp_path / "probe"))
    vulkan._all_devices.cache_clear()
    assert vulkan.gpus() == ()
    vulkan._all_devices.cache_clear()


def _changed() -> None:
    """Forget what was found, as a new process would."""
    vulkan_sdk._find.cache_clear()
