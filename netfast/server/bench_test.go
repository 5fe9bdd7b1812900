package server

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// Fragment archives of some lengths, over connections that are kept, as a rebuild reads them.
// The client reads with as little as it can, so that the server is what is seen.
func BenchmarkGet(b *testing.B) {
	for _, length := range []int{26_000, 6_400_000} {
		for _, validate := range []string{"100", "0"} {
			a := archive(b, randomBytes(length), 2)
			devices := b.TempDir()
			s := ours(b, devices, map[string]string{"etag_validate_pct": validate, "log_level": "INFO"})
			for i := range 16 {
				name := "/a/c/o" + strconv.Itoa(i)
				writeObjectFile(b, filepath.Join(devices, hashDir(testSwift().Policies[1], 7, name), t2+"#2#d.data"), a, ecMetadata(name, t2, a, 2))
			}
			for _, clients := range []int{1, 16} {
				b.Run(fmt.Sprintf("%d bytes/validate %s/%d clients", len(a), validate, clients), func(b *testing.B) {
					b.SetBytes(int64(len(a)))
					var all sync.WaitGroup
					for c := range clients {
						all.Go(func() {
							conn, err := net.Dial("tcp", s.addr)
							if err != nil {
								b.Error(err)
								return
							}
							defer conn.Close()
							buf := make([]byte, 256<<10)
							for i := c; i < b.N; i += clients {
								io.WriteString(conn, request("GET", "/sda/7/a/c/o"+strconv.Itoa(i%16), "X-Backend-Storage-Policy-Index: 1", "X-Backend-Replication: True",
									"User-Agent: obj-reconstructor 1", "X-Backend-Fragment-Preferences: []"))
								n, head := 0, 0
								for head == 0 || n < head+len(a) {
									m, err := conn.Read(buf)
									if err != nil {
										b.Error(err)
										return
									}
									if head == 0 {
										head = bytes.Index(buf[:m], []byte("\r\n\r\n")) + 4
									}
									n += m
								}
							}
						})
					}
					all.Wait()
				})
			}
		}
	}
}
