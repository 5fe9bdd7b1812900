package scenario

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"imping/swift/pickle"
	"imping/swift/policy"
)

// Snapshot is what the erasure-code policies keep on one device, at one moment: the
// files of all hash directories. Hash files and locks are not part of it. It can be
// written and read as JSON.
type Snapshot struct {
	Device string
	Path   string          // of the device
	Conf   string          // swift.conf, which names the policies
	Saved  string          `json:",omitempty"` // folder with a copy of the files; "" for none
	Files  map[string]File // by path under Path
}

// File is one .data, .meta or .ts (or whatever else lies in a hash directory).
type File struct {
	Size     int64
	SHA256   string // hex
	UID, GID uint32
	Mode     uint32   // permission bits
	Metadata Metadata // decoded; nil when Problem is set
	Problem  string   `json:",omitempty"` // why the metadata can not be read
}

// Metadata is an object's metadata: bytes as Go strings. In JSON they are base64.
type Metadata map[string]string

func (m Metadata) MarshalJSON() ([]byte, error) {
	if m == nil {
		return []byte("null"), nil
	}
	pairs := [][2][]byte{}
	for k, v := range m {
		pairs = append(pairs, [2][]byte{[]byte(k), []byte(v)})
	}
	return json.Marshal(pairs)
}

func (m *Metadata) UnmarshalJSON(b []byte) error {
	var pairs [][2][]byte
	if err := json.Unmarshal(b, &pairs); err != nil {
		return err
	}
	if pairs == nil {
		*m = nil
		return nil
	}
	*m = Metadata{}
	for _, p := range pairs {
		(*m)[string(p[0])] = string(p[1])
	}
	return nil
}

// Archives is the number of .data files.
func (s *Snapshot) Archives() int {
	n := 0
	for name := range s.Files {
		if strings.HasSuffix(name, ".data") {
			n++
		}
	}
	return n
}

// TakeSnapshot reads a device. With saveTo, an existing folder, the files are copied
// there as well.
func TakeSnapshot(c Cluster, dev, saveTo string) (*Snapshot, error) {
	s := &Snapshot{Device: dev, Path: c.DevicePath(dev), Conf: c.SwiftConf(), Saved: saveTo, Files: map[string]File{}}
	return s, s.read()
}

// Retake reads the same device again, in whichever process: it needs no cluster.
func (s *Snapshot) Retake() (*Snapshot, error) {
	again := &Snapshot{Device: s.Device, Path: s.Path, Conf: s.Conf, Files: map[string]File{}}
	return again, again.read()
}

func (s *Snapshot) read() error {
	swift, err := policy.Load(s.Conf)
	if err != nil {
		return err
	}
	for _, p := range swift.Policies {
		if p.Type != policy.ErasureCoding {
			continue
		}
		// Partition, suffix, hash, file.
		found, err := fs.Glob(os.DirFS(s.Path), path.Join(p.DataDir(), "*", "*", "*", "*"))
		if err != nil {
			return fmt.Errorf("cannot list device %s: %w", s.Device, err)
		}
		for _, name := range found {
			copyTo := ""
			if s.Saved != "" {
				copyTo = filepath.Join(s.Saved, name)
			}
			if s.Files[name], err = readFile(filepath.Join(s.Path, name), copyTo); err != nil {
				return err
			}
		}
	}
	return nil
}

func readFile(path, copyTo string) (File, error) {
	in, err := os.Open(path)
	if err != nil {
		return File{}, fmt.Errorf("cannot take a snapshot: %w", err)
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return File{}, fmt.Errorf("cannot take a snapshot: %w", err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	f := File{Size: st.Size(), UID: sys.Uid, GID: sys.Gid, Mode: uint32(st.Mode().Perm())}
	sum := sha256.New()
	var out io.Writer = sum
	var saved *os.File
	if copyTo != "" {
		if err := os.MkdirAll(filepath.Dir(copyTo), 0o755); err != nil {
			return File{}, fmt.Errorf("cannot save a copy: %w", err)
		}
		if saved, err = os.Create(copyTo); err != nil {
			return File{}, fmt.Errorf("cannot save a copy: %w", err)
		}
		defer saved.Close()
		out = io.MultiWriter(sum, saved)
	}
	if _, err := io.Copy(out, in); err != nil {
		return File{}, fmt.Errorf("cannot take a snapshot of %s: %w", path, err)
	}
	f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	raw, err := readXattrs(in)
	if err == nil {
		f.Metadata, err = pickle.DecodeMetadata(raw)
	}
	if err != nil {
		f.Problem = err.Error()
	}
	if saved != nil && f.Problem == "" {
		if err := SetMetadata(copyTo, raw); err != nil {
			return File{}, err
		}
	}
	return f, nil
}

// ReadFile is one file as a snapshot describes it.
func ReadFile(path string) (File, error) { return readFile(path, "") }

// SetMetadata gives a file a pickle of metadata, in one piece, and its checksum.
func SetMetadata(path string, raw []byte) error {
	sum := md5.Sum(raw)
	err := unix.Setxattr(path, metadataKey, raw, 0)
	if err == nil {
		err = unix.Setxattr(path, checksumKey, []byte(hex.EncodeToString(sum[:])), 0)
	}
	if err != nil {
		return fmt.Errorf("cannot set the metadata of %s: %w", path, err)
	}
	return nil
}

// Swift: obj/diskfile.py, METADATA_KEY and METADATA_CHECKSUM_KEY.
const (
	metadataKey = "user.swift.metadata"
	checksumKey = "user.swift.metadata_checksum"
)

// maxPieces of 64 KiB is far more than Swift writes.
const maxPieces = 16

// readXattrs is the raw pickle, put together from its pieces and checked.
func readXattrs(f *os.File) ([]byte, error) {
	var raw []byte
	for i := range maxPieces {
		key := metadataKey
		if i > 0 {
			key = fmt.Sprintf("%s%d", metadataKey, i)
		}
		piece, err := xattr(f, key)
		if errors.Is(err, unix.ENODATA) && i > 0 {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the extended attribute %s: %w", key, err)
		}
		raw = append(raw, piece...)
	}
	sum, err := xattr(f, checksumKey)
	if err != nil {
		return nil, fmt.Errorf("cannot read the extended attribute %s: %w", checksumKey, err)
	}
	if want := md5.Sum(raw); string(sum) != hex.EncodeToString(want[:]) {
		return nil, fmt.Errorf("%s is %q, but the metadata's MD5 is %x", checksumKey, sum, want)
	}
	return raw, nil
}

func xattr(f *os.File, key string) ([]byte, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Fgetxattr(int(f.Fd()), key, buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// Wipe empties a device, as a new disk is: the folder itself stays, with its owner.
func Wipe(c Cluster, dev string) error {
	if c.NodeOf(dev) == 0 {
		return fmt.Errorf("the cluster has no device %q to wipe", dev)
	}
	path := c.DevicePath(dev)
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("cannot wipe %s: %w", dev, err)
	}
	for _, e := range entries {
		// A server may be making a folder there while we remove it.
		for try := 0; ; try++ {
			err := os.RemoveAll(filepath.Join(path, e.Name()))
			if err == nil {
				break
			}
			if !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) || try == 10 {
				return fmt.Errorf("cannot wipe %s: %w", dev, err)
			}
		}
	}
	return nil
}
