"""The camera records of a Medipix3 behind ADTimePix3, beside those of every areaDetector camera; as in `records`.

They are those of ADTimePix3, Server, File, Dashboard and Measurement.template; arrays of data are short.
"""

TRIGGER_MODES = (
    "PEXSTART__NEXSTOP|NEXSTART__PEXSTOP|PEXSTART__TIMERSTOP|NEXSTART__TIMERSTOP|AUTOTRIGSTART__TIMERSTOP|CONTINUOUS"
    "|SOFTWARESTART__TIMERSTOP|SwReSt__SwReSp"
)
SERVAL = f"""
ai - Alarm BiasVoltage_RBV ClockRead_RBV ClockTimepix_RBV ExposureTime_RBV FPGATemp_RBV Fan1Speed_RBV Fan2Speed_RBV
    FileWriterCalc FileWriterCalc1 FileWriterCalc2 HotPixelCalc HttpCode_RBV ImgAcqRate_RBV ImgMemoryUsage
    ImgProcessingTime ImgTimeAtFrame_RBV LocalTemp_RBV MaxPulseHgt_RBV MaxPulsePeriod_RBV PelEvtCalc PrvHstAcqRate_RBV
    PrvHstBinOffsetMs_RBV PrvHstBinWidthMs_RBV PrvHstFrameBinOffset_RBV PrvHstFrameBinSize_RBV PrvHstFrameBinWidth_RBV
    PrvHstFrameCount_RBV PrvHstMemoryUsage_RBV PrvHstProcessingTime_RBV PrvHstTimeAtFrame_RBV PrvHstTotalCounts_RBV
    PrvHstTotalTimeMs_RBV PrvImgAcqRate_RBV PrvImgTimeAtFrame_RBV TdcCalc TimerMaxVal_RBV TimerMinVal_RBV
    TimerStep_RBV Tpx3StatusCalc TriggerPeriod_RBV WriteSpeed_RBV
ao+ - GlblTimestampIntvl PrvHstBinWidth=1.0 PrvHstFramesToSum=10 PrvHstOffset PrvHstSumUpdateInterval=1 PrvPeriod=0.2
    TriggerDelay
bi 0|1 CapDualPreview_RBV CapImgThresholds_RBV CapTdc_RBV CapTofHist_RBV
bi AlarmDisabled|AlarmEnabled AlarmDisable=1
bi No|Yes BPCFilePathExists_RBV DACSFilePathExists_RBV Img1FilePathExists_RBV ImgFilePathExists_RBV
    PrvHstFilePathExists_RBV PrvImg1FilePathExists_RBV PrvImgFilePathExists_RBV Raw1FilePathExists_RBV
    RawFilePathExists_RBV
bi false|true DetConnected_RBV=1 DiskLimReach_RBV ServalConnected_RBV=1
bo 0|1 Health
bo Done|Write WriteBPCFile WriteDACSFile
bo No|Reset ImgImageDataReset PrvHstDataReset
bo No|Write WriteProcessedHst WriteProcessedImg
bo No|Yes ApplyConfig RefreshConnection RefreshPixelConfig WriteData
bo+ Disabled|Enabled ImgAccumulationEnable=1 PrvHstAccumulationEnable=1
bo+ No|Yes BothCounters ChargeSumming Colour
bo+ Positive|Negative Polarity
bo+ Signed|Clip PrvImgThreshDiffClip=1
bo+ false|true BiasEnbl Img1StpOnDskLim ImgStpOnDskLim PeriphClk80 Prv1StpOnDskLim PrvHstStpOnDskLim PrvStpOnDskLim
    RefClock WriteImg WriteImg1 WritePrvHst WritePrvImg WritePrvImg1 WriteRaw WriteRaw1
ints - ImgImageData ImgImageFrame ImgImageSumNFrames PrvHstHistogramData PrvHstHistogramFrame
    PrvHstHistogramSumNFrames PrvHstHistogramTimeMs
longin - AcqModes_RBV DiskLowLimit_RBV Fan1PWM_RBV Fan2PWM_RBV FreeSpace_RBV Humidity_RBV ImgFrameNumber_RBV
    ImgThresholdID_RBV ImgTotalCounts MaskedPelsCount_RBV MaxPulseCnt_RBV MpxType_RBV=5 NChips_RBV=4 NRows_RBV
    PixCount_RBV PrvImgFrameNumber_RBV PrvImgIntegrationSize_RBV PrvImgThresholdID_RBV RowLen_RBV nTriggers_RBV
longout - ImgFramesToSum=10 ImgSumUpdateInterval=1 PrvImgLogHeaders=3
longout+ - BiasVolt CounterSelectIn CounterSelectOut IDelay0 IDelay1 IDelay2 IDelay3 Img1IntgSize=1 Img1QueueSize=1024
    ImgIntgSize=1 ImgQueueSize=1024 PrvHstIntgSize=1 PrvHstNumBins=1 PrvHstQueueSize=1024 PrvImg1IntgSize=1
    PrvImg1QueueSize=16 PrvImgIntgSize=1 PrvImgQueueSize=16 Raw1QueueSize=16384 RawQueueSize=16384
mbbi Unknown|TPX3|MPX3 DetectorFamily_RBV=2
mbbi file:/|http://|tcp://|unknown Raw1Stream RawStream
mbbo Sum_(64-bit)|Average_(32-bit) ProcessedHstOutputType ProcessedImgOutputType
mbbo+ 0|1|2 LogLevel
mbbo+ 0|1|2|3|4|5|6 TriggerIn TriggerOut
mbbo+ 0|1|2|3|4|5|6|7 DetOrient
mbbo+ 1-bit|6-bit|12-bit|24-bit PixelDepth=2
mbbo+ NONE|LEADER|FOLLOWER ChainMode
mbbo+ P0123|N0123|PN0123|P0|N0|PN0 Tdc0 Tdc1
mbbo+ SHGM|HGM|LGM|SLGM GainMode=1
mbbo+ count|tot|toa|tof|count__fb Img1FileMode ImgFileMode PrvHstFileMode PrvImg1FileMode PrvImgFileMode
mbbo+ single__file|frame Raw1SplitStg RawSplitStg
mbbo+ skipOnFrame|skipOnPeriod PrvSmplgMode
mbbo+ sum|average|last Img1IntgMode ImgIntgMode PrvHstIntgMode PrvImg1IntgMode PrvImgIntgMode
mbbo+ tiff|pgm|png|jsonimage|jsonhisto Img1FileFmt ImgFileFmt PrvHstFileFmt PrvImg1FileFmt PrvImgFileFmt
stringin - AVDD_RBV BChBoard2Id_RBV BChBoardId_RBV Chip1_RBV Chip2_RBV Chip3_RBV Chip4_RBV Chip5_RBV Chip6_RBV
    Chip7_RBV Chip8_RBV ChipTemps_RBV ChipType_RBV=MPX3 DetType_RBV FW_ver_RBV FwTS_RBV Iface_RBV IpAddr2_RBV IpAddr_RBV
    SW_ver_RBV ServerURL_RBV Tdc_RBV TriggerModeC_RBV VDD_RBV
text - WriteFileMessage
text+ - BPCFileName BPCFilePath DACSFileName DACSFilePath Img1FilePath Img1FileTemplate Img1Ths ImgFilePath=tcp://listen@localhost:8086
    ImgFileTemplate ImgThs PrvHstFilePath PrvHstFileTemplate PrvImg1FilePath PrvImg1FileTemplate PrvImg1Ths
    PrvImgFilePath PrvImgFileTemplate PrvImgThs Raw1FilePath Raw1FileTemplate RawFilePath RawFileTemplate
textin - MaskedPelsExportStatus_RBV MaskedPelsJson_RBV
ai - ElapsedTime_RBV TimeLeft_RBV
longin - DroppedFrames_RBV FrameCnt_RBV PelEvtRate_RBV StartTime_RBV Tdc1EvtRate_RBV Tdc2EvtRate_RBV
mbbo+ Mono ColorMode
mbbo+ UInt8|Int8|UInt16|Int16|UInt32|Int32 DataType=2
mbbo+ {TRIGGER_MODES} TriggerMode=4
stringin - Status_RBV=DA__IDLE
"""
