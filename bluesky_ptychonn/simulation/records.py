"""The areaDetector records of the simulated detector, by template.

Each line is a record type, its choices (or ``-``) and names with start values; ``+`` adds ``NAME_RBV``. Spaces of
choices and values are written ``_``, underscores ``__``. Types are those of the templates, except that busy records
are bo, calculations are ai, and ``text`` and ``textin`` are waveforms of characters.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bluesky_ptychonn.simulation.serval_records import SERVAL

TYPES = "Int8|UInt8|Int16|UInt16|Int32|UInt32|Int64|UInt64|Float32|Float64"

ARRAY_BASE = f"""
ai - ArrayRate_RBV PoolMaxMem PoolUsedBuffers PoolUsedMem TimeStamp_RBV AsynIO ClearAcquireBusy SetAcquireBusy
bi Done|Acquiring AcquireBusyCB
bo Done|Acquiring AcquireBusy
bo Done|Allocate PreAllocBuffers
bo+ Done|Acquire Acquire
bo No|Yes EmptyFreeList PoolPollStats WaitForPlugins
bo+ Disable|Enable ArrayCallbacks=1
ints+ - Dim0SA Dim1SA Dim2SA Dim3SA Dim4SA Dim5SA Dim6SA Dim7SA Dim8SA Dim9SA
ints+ - Dimensions
longin - ArraySizeX_RBV ArraySizeY_RBV ArraySizeZ_RBV ArraySize_RBV CompressedSize_RBV EpicsTSNsec_RBV
    EpicsTSSec_RBV NumQueuedArrays PoolAllocBuffers PoolFreeBuffers UniqueId_RBV
longin+ - ArraySize0 ArraySize1 ArraySize2 ArraySize3 ArraySize4 ArraySize5 ArraySize6 ArraySize7 ArraySize8
    ArraySize9
longout+ - ArrayCounter NDimensions=2 NumPreAllocBuffers=100
mbbi Attributes_file_OK|File_not_found|XML_syntax_error|Macro_substitution_error NDAttributesStatus
mbbi RGGB|GBRG|GRBG|BGGR BayerPattern_RBV
mbbo+ {TYPES} DataType=3
mbbo+ Mono|Bayer|RGB1|RGB2|RGB3|YUV444|YUV422|YUV421 ColorMode
stringin - ADCoreVersion_RBV=3.14.0 Codec_RBV DriverVersion_RBV=3.6.0 FirmwareVersion_RBV Manufacturer_RBV Model_RBV
    PortName_RBV SDKVersion_RBV SerialNumber_RBV
text - NDAttributesFile NDAttributesMacros
"""

AD_BASE = """
ai - ShutterCloseEPICS ShutterFanout ShutterOpenEPICS TemperatureActual TimeRemaining_RBV
ao+ - AcquirePeriod=1 AcquireTime=1 Gain=1.0 ShutterCloseDelay ShutterOpenDelay Temperature=25.0
bi Closed|Open ShutterControlEPICS ShutterStatus_RBV
bo No|Yes ReadStatus=1
bo+ Close|Open ShutterControl
bo+ No|Yes ReverseX ReverseY
longin - MaxSizeX_RBV MaxSizeY_RBV NumExposuresCounter_RBV NumImagesCounter_RBV
longout+ - BinX=1 BinY=1 MinX MinY NumExposures=1 NumImages=1 SizeX SizeY
mbbi Closed|Open ShutterStatusEPICS_RBV
mbbi Idle|Acquire|Readout|Correct|Saving|Aborting|Error|Waiting|Initializing|Disconnected|Aborted DetectorState_RBV
mbbo+ None|EPICS_PV|Detector_output ShutterMode
mbbo+ Normal|Background|FlatField|DblCorrelation FrameType
mbbo+ Single|Multiple|Continuous ImageMode=2
textin - StatusMessage_RBV StringFromServer_RBV StringToServer_RBV
"""

EIGER = """
ai - CountCutoff_RBV DeadTime_RBV FWFree_RBV Humid0_RBV SensorThickness_RBV=0.00045 Temp0_RBV XPixelSize_RBV
    YPixelSize_RBV
ao - Trigger
ao+ - HVResetTime=30 Threshold2Energy=8000 TriggerStartDelay BeamX BeamY ChiIncr ChiStart DetDist EnergyEps=0.05
    FilePerms=420 KappaIncr KappaStart MonitorTimeout=500 OmegaIncr OmegaStart PhiIncr PhiStart PhotonEnergy
    ThresholdEnergy=5000 TwoThetaIncr TwoThetaStart Wavelength WavelengthEps=0.0005
bi Unarmed|Armed Armed
bo Done|Initialize Initialize
bo Done|Reset HVReset
bo Done|Restart Restart
bo+ Disable|Enable Threshold1Enable=1 Threshold2Enable ThresholdDiffEnable AutoSummation=1 CountrateCorrApplied=1
    FWAutoRemove FWCompression=1 FWEnable FlatfieldApplied=1 ManualTrigger MonitorEnable PixelMaskApplied=1
    SaveFiles StreamDecompress=1 StreamEnable=1
bo+ Normal|Retrigger CountingMode=1
bo+ No|Yes StreamAsTSSource=1
bo+ Unsigned|Signed SignedData
longin - BitDepthImage_RBV=16 SequenceId StreamDropped_RBV
longout+ - FWNImagesPerFile=1000 NumTriggers=1
mbbo+ Disable|4M ROIMode
mbbo+ HDR|Pump_&_Probe ExtGateMode
mbbo+ Internal_Series|Internal_Enable|External_Series|External_Enable|Continuous|External_Gate TriggerMode
mbbo+ LZ4|BS_LZ4|None CompressionAlgo=1
mbbo+ Legacy|v2024.2 FWHDF5Format
mbbo+ None|Basic|All StreamHdrDetail
mbbo+ None|FileWriter|Stream DataSource=2
mbbo+ Stream|Stream2 StreamVersion=1
mbbo+ Undefined|Invalid FileFormat
stringin - HVState_RBV=READY Description_RBV=Simulated_Eiger2_500K Error_RBV FWState_RBV=disabled MonitorState_RBV
    SensorMaterial_RBV=Si State_RBV=idle StreamState_RBV=ready
stringout+ - FileOwner FileOwnerGrp
text - StreamHdrAppendix StreamImgAppendix
text+ - FWNamePattern
"""

PLUGIN = """
ai - ExecutionTime_RBV MaxArrayRate_COUT QueueFreeLow QueueUse QueueUseHIGH QueueUseHIHI SortFreeLow
ao+ - MaxArrayRate MaxByteRate MinCallbackTime SortTime=0.1
bo No|Yes ProcessPlugin=1
bo+ Disable|Enable EnableCallbacks=1
bo+ No|Yes BlockingCallbacks
longin - MaxThreads_RBV=1 QueueFree SortFree=20
longout+ - DisorderedArrays DroppedArrays DroppedOutputArrays NDArrayAddress NumThreads=1 QueueSize=2000 SortSize=20
mbbo+ Unsorted|Sorted SortMode
stringin - PluginType_RBV
stringout+ - NDArrayPort
"""

FILE = """
bi No|Yes FilePathExists_RBV
bi Write_OK|Write_error WriteStatus
bo Done|Free FreeCapture
bo+ Done|Capture Capture
bo+ Done|Read ReadFile
bo+ Done|Write WriteFile
bo+ No|Yes AutoIncrement=1 AutoSave DeleteDriverFile LazyOpen
longin - NumCaptured_RBV
longout+ - CreateDirectory FileNumber=1 NumCapture=1
mbbo+ Single|Capture|Stream FileWriteMode=2
stringout+ - TempSuffix
textin - FullFileName_RBV WriteMessage
text+ - FileName=frames FilePath FileTemplate=%s%s__%6.6d.h5
"""

HDF5 = """
ai - IOSpeed RunTime
ao+ - FillValue
bi Not_Supported|Supported SWMRSupported_RBV=1
bi No|Yes XMLValid_RBV=1
bi Off|Active SWMRActive_RBV
bo Done|Flush FlushNow
bo+ No|Yes ChunkSizeAuto=1 DimAttDatasets StoreAttr=1 StorePerform
bo+ Off|On PositionMode SWMRMode
longin - SWMRCbCounter_RBV
longout+ - BloscLevel BoundaryAlign BoundaryThreshold=1 ChunkSize2 ChunkSize3 ChunkSize4 ChunkSize5 ChunkSize6
    ChunkSize7 ChunkSize8 ChunkSize9 DataBitsOffset ExtraDimChunk3 ExtraDimChunk4 ExtraDimChunk5 ExtraDimChunk6
    ExtraDimChunk7 ExtraDimChunk8 ExtraDimChunk9 ExtraDimChunkX ExtraDimChunkY ExtraDimSize3 ExtraDimSize4
    ExtraDimSize5 ExtraDimSize6 ExtraDimSize7 ExtraDimSize8 ExtraDimSize9 ExtraDimSizeN ExtraDimSizeX ExtraDimSizeY
    JPEGQuality=90 NDAttributeChunk NumColChunks NumDataBits NumExtraDims NumFramesChunks=256 NumFramesFlush
    NumRowChunks SZipNumPixels ZLevel
mbbo+ BloscLZ|LZ4|LZ4HC|SNAPPY|ZLIB|ZSTD BloscCompressor
mbbo+ None|Byte|Bit BloscShuffle
mbbo+ None|N-bit|szip|zlib|Blosc|BSLZ4|LZ4|JPEG Compression
mbbo+ HDF5|Invalid FileFormat
stringin - ExtraDimName3_RBV ExtraDimName4_RBV ExtraDimName5_RBV ExtraDimName6_RBV ExtraDimName7_RBV
    ExtraDimName8_RBV ExtraDimName9_RBV ExtraDimNameN_RBV ExtraDimNameX_RBV ExtraDimNameY_RBV
stringout+ - PosIndexDim3 PosIndexDim4 PosIndexDim5 PosIndexDim6 PosIndexDim7 PosIndexDim8 PosIndexDim9 PosIndexDimN
    PosIndexDimX PosIndexDimY PosNameDim3 PosNameDim4 PosNameDim5 PosNameDim6 PosNameDim7 PosNameDim8 PosNameDim9
    PosNameDimN PosNameDimX PosNameDimY
textin - XMLErrorMsg_RBV
text+ - XMLFileName
"""

ROI = f"""
ai - SetXHOPR SetYHOPR
ao+ - Scale=1
bo+ Disable|Enable CollapseDims EnableScale EnableX=1 EnableY=1 EnableZ=1
bo+ No|Yes AutoSizeX AutoSizeY AutoSizeZ ReverseX ReverseY ReverseZ
longin - MaxSizeX_RBV MaxSizeY_RBV MaxSizeZ_RBV MaxX MaxY
longout+ - BinX=1 BinY=1 BinZ=1 MinX MinY MinZ SizeX SizeY SizeZ=1
mbbo+ {TYPES}|Automatic DataTypeOut=10
stringout+ - Name
"""

PLUGINS = {
    "ROI1:": ARRAY_BASE + PLUGIN + ROI,
    "Pva1:": ARRAY_BASE + PLUGIN + "textin - PvName_RBV",
    "HDF1:": ARRAY_BASE + PLUGIN + FILE + HDF5,
}
CAMERAS = {"eiger2": ARRAY_BASE + AD_BASE + FILE + EIGER, "medipix3": ARRAY_BASE + AD_BASE + SERVAL}
"""A later line of a camera replaces an earlier one of the same name."""


@dataclass(frozen=True)
class RecordSpec:
    """One record: its name behind the prefix, type, choices and start value."""

    name: str
    type: str
    choices: tuple[str, ...]
    value: str


READBACKS = {"ao": "ai", "bo": "bi", "longin": "longin", "longout": "longin", "mbbo": "mbbi"} | {
    "stringout": "stringin",
    "text": "textin",
    "ints": "ints",
}


def record_specs(detector: str = "eiger2") -> Iterator[RecordSpec]:
    """List every record of a detector, readbacks included, such as ``cam1:AcquireTime_RBV``."""
    for plugin, template in {"cam1:": CAMERAS[detector], **PLUGINS}.items():
        specs = {spec.name: spec for spec in _specs(plugin, template)}
        yield from specs.values()


def _specs(plugin: str, template: str) -> Iterator[RecordSpec]:
    for line in template.replace("\n    ", " ").strip().splitlines():
        if not line:
            continue
        kind, choices_text, *names = line.split()
        kind, readback = kind.rstrip("+"), kind.endswith("+")
        choices = () if choices_text == "-" else tuple(_words(choice) for choice in choices_text.split("|"))
        for name in names:
            name, _, value = name.partition("=")
            yield RecordSpec(plugin + name, kind, choices, _words(value))
            if readback:
                yield RecordSpec(f"{plugin}{name}_RBV", READBACKS[kind], choices, _words(value))


def _words(text: str) -> str:
    return text.replace("__", "\0").replace("_", " ").replace("\0", "_")
