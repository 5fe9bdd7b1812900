package pipeline

import (
	"fmt"
	"syscall"
	"testing"
	"unsafe"

	"imping/io/slab"
)

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

func cpuSeconds() float64 {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return float64(ru.Utime.Sec+ru.Stime.Sec) + float64(ru.Utime.Usec+ru.Stime.Usec)/1e6
}

// One operation rebuilds one archive of a 10+4 object from ten archives in memory; reading is a copy. MB/s counts rebuilt bytes.
func BenchmarkRebuild(b *testing.B) {
	for _, typ := range []string{"isa_l_rs_vand", "liberasurecode_rs_vand"} {
		for _, size := range []int64{16 << 20, 64 << 10, 4 << 10} {
			for _, verify := range []bool{true, false} {
				b.Run(fmt.Sprintf("%s/%dKiB/md5=%v", typ, size>>10, verify), func(b *testing.B) {
					a := encode(newCode(b, typ, 10, 4), 1<<20, size)
					pool := slab.New(64 << 20)
					acct, err := pool.Open(bg, 2*StripeSize(a.code, a.segment, 1))
					if err != nil {
						b.Fatal(err)
					}
					defer acct.Close()
					j := a.job(0)
					j.spec.VerifyMD5 = verify
					out := a.code.ArchiveSize(size, a.segment)
					b.SetBytes(out)
					b.ReportAllocs()
					start := cpuSeconds()
					for b.Loop() {
						for _, s := range j.sources {
							s.off, s.closed = 0, 0
						}
						j.sinks[0].buf.Reset()
						j.sinks[0].ends = 0
						if _, err := Run(bg, acct, &j.spec); err != nil {
							b.Fatal(err)
						}
					}
					used := cpuSeconds() - start
					b.ReportMetric(used/(float64(b.N)*float64(out)/(1<<30)), "cpu-s/GiB-out")
					b.ReportMetric(used/float64(b.N)*1e6, "cpu-us/object")
				})
			}
		}
	}
}
