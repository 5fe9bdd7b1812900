package server

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"imping/io/diskfile"
	"imping/netfast"
	"imping/swift/conf"
	"imping/swift/recon"
)

// reconFilter answers for the machine: GETs below /recon. Swift: common/middleware/recon.py.
type reconFilter struct {
	s       *Server
	devices string
	cache   string
	rings   []string
	mounts  *diskfile.Manager // tells mounted devices
	proc    string            // /proc, but in tests
}

func newRecon(s *Server, sec *conf.Section) *reconFilter {
	f := &reconFilter{
		s: s, devices: sec.Get("devices", "/srv/node"), cache: sec.Get("recon_cache_path", recon.DefaultPath), proc: "/proc",
	}
	f.mounts = diskfile.NewManager(diskfile.Config{Devices: f.devices, MountCheck: true, Policy: s.swift.Default()})
	dir := sec.Get("swift_dir", "/etc/swift")
	f.rings = []string{filepath.Join(dir, "account.ring.gz"), filepath.Join(dir, "container.ring.gz")}
	for _, p := range s.swift.Policies {
		f.rings = append(f.rings, filepath.Join(dir, p.RingName()+".ring.gz"))
	}
	return f
}

func (f *reconFilter) filter(next handler) handler {
	return func(r *Request) *Response {
		if !strings.HasPrefix(netfast.Quote(r.Path), "/recon/") {
			return next(r)
		}
		segs := append(strings.SplitN(r.Path, "/", 4), "")
		what, kind := segs[2], segs[3]
		content, err := f.look(what, kind)
		switch {
		case err == errNoSuchPath:
			return answerText(404, "text/plain", "Invalid path: "+netfast.Quote(r.Path))
		case err != nil:
			f.s.log.Errorf("recon: %v", err)
			resp := answerText(500, "text/plain", "Internal server error.")
			resp.reason = "Server Error"
			return resp
		}
		body, err := json.Marshal(content)
		if err != nil {
			f.s.log.Errorf("recon: cannot write %s: %v", what, err)
			return answer(500)
		}
		return answerText(200, "application/json", string(body))
	}
}

var errNoSuchPath = errors.New("no such path")

const (
	accountFile   = "account.recon"
	containerFile = "container.recon"
	driveFile     = "drive.recon"
	relinkerFile  = "relinker.recon"
)

// cached are the endpoints that answer with what daemons have left in the cache.
var cached = map[string]struct {
	file string
	keys []string
}{
	"async":                 {recon.ObjectFile, []string{"async_pending", "async_pending_last"}},
	"driveaudit":            {driveFile, []string{"drive_audit_errors"}},
	"sharding":              {containerFile, []string{"sharding_stats", "sharding_time", "sharding_last"}},
	"relinker":              {relinkerFile, []string{"devices", "workers"}},
	"replication/account":   {accountFile, replicationKeys},
	"replication/container": {containerFile, replicationKeys},
	"replication/object":    {recon.ObjectFile, objectReplicationKeys},
	"replication/":          {recon.ObjectFile, objectReplicationKeys},
	"reconstruction/object": {recon.ObjectFile, []string{"object_reconstruction_last", "object_reconstruction_time"}},
	"updater/container":     {containerFile, []string{"container_updater_sweep"}},
	"updater/object":        {recon.ObjectFile, []string{"object_updater_sweep"}},
	"expirer/object":        {recon.ObjectFile, []string{"object_expiration_pass", "expired_last_pass"}},
	"auditor/account":       {accountFile, auditorKeys("account")},
	"auditor/container":     {containerFile, auditorKeys("container")},
	"auditor/object":        {recon.ObjectFile, []string{"object_auditor_stats_ALL", "object_auditor_stats_ZBF"}},
}

var (
	replicationKeys       = []string{"replication_time", "replication_stats", "replication_last"}
	objectReplicationKeys = append(replicationKeys[:3:3], "object_replication_time", "object_replication_last")
)

func auditorKeys(kind string) []string {
	return []string{kind + "_audits_passed", kind + "_auditor_pass_completed", kind + "_audits_since", kind + "_audits_failed"}
}

// look answers with what is to be written as JSON. What does not ask for a kind ignores it.
func (f *reconFilter) look(what, kind string) (any, error) {
	for _, name := range []string{what + "/" + kind, what} {
		if c, ok := cached[name]; ok {
			return f.fromCache(c.file, c.keys), nil
		}
	}
	switch what {
	case "mem":
		return f.memory()
	case "load":
		return f.load()
	case "devices":
		names, err := list(f.devices)
		if err != nil {
			f.s.log.Errorf("Error listing devices: %v", err)
			return map[string]any{f.devices: nil}, nil
		}
		return map[string]any{f.devices: names}, nil
	case "mounted":
		return f.mounted()
	case "unmounted":
		return f.unmounted()
	case "diskusage":
		return f.usage()
	case "ringmd5":
		sums := map[string]any{}
		for _, ring := range f.rings {
			if _, err := os.Stat(ring); err == nil {
				sums[ring] = f.md5(ring)
			}
		}
		return sums, nil
	case "swiftconfmd5":
		return map[string]any{f.s.swift.Path: f.md5(f.s.swift.Path)}, nil
	case "quarantined":
		return f.quarantined()
	case "sockstat":
		return f.sockets()
	case "version":
		return map[string]any{"version": swiftVersion}, nil
	case "time":
		return float64(f.s.now().UnixMicro()) / 1e6, nil
	}
	return nil, errNoSuchPath
}

func (f *reconFilter) fromCache(file string, keys []string) any {
	answer := map[string]any{}
	for _, key := range keys {
		answer[key] = nil
	}
	entry, err := recon.Load(filepath.Join(f.cache, file))
	if err != nil {
		f.s.log.Errorf("Error reading recon cache file: %v", err)
		return answer
	}
	for _, key := range keys {
		answer[key] = entry[key]
	}
	return answer
}

// list gives the names in a folder, never nil.
func list(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// lines reads a file below /proc; one that is not there has none.
func (f *reconFilter) lines(name string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(f.proc, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimRight(string(b), "\n"), "\n"), nil
}

func (f *reconFilter) memory() (any, error) {
	lines, err := f.lines("meminfo")
	info := map[string]string{}
	for _, line := range lines {
		if key, value, ok := strings.Cut(line, ":"); ok {
			info[key] = strings.TrimSpace(value)
		}
	}
	return info, err
}

func (f *reconFilter) load() (any, error) {
	lines, err := f.lines("loadavg")
	if err != nil || len(lines) == 0 {
		return nil, fmt.Errorf("cannot read loadavg: %v", err)
	}
	words := strings.Fields(lines[0])
	if len(words) != 5 {
		return nil, fmt.Errorf("loadavg reads %.100q", lines[0])
	}
	load := map[string]any{"tasks": words[3]}
	for i, key := range []string{"1m", "5m", "15m"} {
		if load[key], err = strconv.ParseFloat(words[i], 64); err != nil {
			return nil, err
		}
	}
	if load["processes"], err = strconv.Atoi(words[4]); err != nil {
		return nil, err
	}
	return load, nil
}

func (f *reconFilter) mounted() (any, error) {
	lines, err := f.lines("mounts")
	mounts := []map[string]string{}
	for _, line := range lines {
		if words := strings.Fields(line); len(words) >= 2 {
			mounts = append(mounts, map[string]string{"device": words[0], "path": words[1]})
		}
	}
	return mounts, err
}

// each calls do for every folder of a device, mounted or not.
func (f *reconFilter) each(do func(device string, mounted bool)) error {
	names, err := list(f.devices)
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(f.devices, name)); err == nil && info.IsDir() {
			_, err := f.mounts.DevicePath(name)
			do(name, err == nil)
		}
	}
	return err
}

func (f *reconFilter) unmounted() (any, error) {
	devices := []map[string]any{}
	return devices, f.each(func(device string, mounted bool) {
		if !mounted {
			devices = append(devices, map[string]any{"device": device, "mounted": false})
		}
	})
}

func (f *reconFilter) usage() (any, error) {
	devices := []map[string]any{}
	err := f.each(func(device string, mounted bool) {
		entry := map[string]any{"device": device, "mounted": mounted, "size": "", "used": "", "avail": ""}
		devices = append(devices, entry)
		var fs syscall.Statfs_t
		if !mounted {
			return
		}
		if err := syscall.Statfs(filepath.Join(f.devices, device), &fs); err != nil {
			entry["mounted"] = err.Error()
			return
		}
		block := uint64(fs.Bsize)
		entry["size"], entry["avail"], entry["used"] = block*fs.Blocks, block*fs.Bavail, block*(fs.Blocks-fs.Bavail)
	})
	return devices, err
}

// md5 is nil for a file that can not be read.
func (f *reconFilter) md5(path string) any {
	file, err := os.Open(path)
	if err == nil {
		defer file.Close()
		h := md5.New()
		if _, err = io.Copy(h, file); err == nil {
			return hex.EncodeToString(h.Sum(nil))
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		f.s.log.Errorf("Error reading %s: %v", path, err)
	}
	return nil
}

// quarantined counts folders by the links of the one that holds them.
func (f *reconFilter) quarantined() (any, error) {
	counts := map[string]int{"objects": 0, "containers": 0, "accounts": 0}
	policies := map[string]map[string]int{}
	devices, err := list(f.devices)
	if err != nil {
		return nil, err
	}
	for _, device := range devices {
		kinds, err := list(filepath.Join(f.devices, device, "quarantined"))
		if err != nil {
			continue
		}
		for _, kind := range kinds {
			var stat syscall.Stat_t
			if syscall.Lstat(filepath.Join(f.devices, device, "quarantined", kind), &stat) != nil || stat.Nlink <= 2 {
				continue
			}
			n := int(stat.Nlink - 2)
			if !strings.HasPrefix(kind, "objects") {
				counts[kind] += n
				continue
			}
			_, index, _ := strings.Cut(kind, "-")
			if index == "" {
				index = "0"
			}
			if policies[index] == nil {
				policies[index] = map[string]int{}
			}
			policies[index]["objects"] += n
			counts["objects"] += n
		}
	}
	return map[string]any{"objects": counts["objects"], "containers": counts["containers"], "accounts": counts["accounts"], "policies": policies}, nil
}

// sockets reads /proc/net/sockstat and sockstat6; memory is told in pages there.
func (f *reconFilter) sockets() (any, error) {
	stats := map[string]int{}
	for file, fields := range map[string]map[string]int{
		"net/sockstat":  {"tcp_in_use": 2, "orphan": 4, "time_wait": 6, "tcp_mem_allocated_bytes": 10},
		"net/sockstat6": {"tcp6_in_use": 2},
	} {
		lines, err := f.lines(file)
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			words := strings.Fields(line)
			if !strings.HasPrefix(line, "TCP: inuse") && !strings.HasPrefix(line, "TCP6: inuse") {
				continue
			}
			for key, at := range fields {
				if at >= len(words) {
					return nil, fmt.Errorf("%s reads %.100q", file, line)
				}
				if stats[key], err = strconv.Atoi(words[at]); err != nil {
					return nil, err
				}
			}
		}
	}
	if pages, ok := stats["tcp_mem_allocated_bytes"]; ok {
		stats["tcp_mem_allocated_bytes"] = pages * os.Getpagesize()
	}
	return stats, nil
}
