package server

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"time"

	"imping/daemon"
	"imping/io/batch"
	"imping/io/diskfile"
	"imping/swift/conf"
)

// Config is what a conf file says, under Swift's names. docs/operators-guide.md has a table of
// all options, those that are passed over and those that are refused too.
type Config struct {
	Path string

	// The process.
	BindIP, RingIP, SwiftDir      string
	BindPort                      int
	BindTimeout                   time.Duration
	Backlog                       int
	KeepIdle                      time.Duration
	Workers                       int // how many processors are used; 0 = one process without a guardian
	ServersPerPort                int
	RingCheckInterval             time.Duration
	MaxClients                    int // of all workers together
	ClientTimeout                 time.Duration
	StaleWorkerTimeout            time.Duration // how long requests under way may take after a SIGHUP
	Section                       *conf.Section // [app:object-server], for package daemon
	Pipeline                      []conf.Stage  // the filters
	LogRequests                   bool
	MasterTexts                   bool // imping_log_texts = master
	LogFormat                     lineFormat
	anonymization, anonymizedSalt string

	// Objects.
	Devices          string
	MountCheck       bool
	ReclaimAge       time.Duration
	CommitWindow     time.Duration
	DisableFallocate bool
	FallocateReserve string
	BytesPerSync     int64  // mb_per_sync
	IOEngine         string // imping_io_engine, as batch.New takes it
	KeepCacheSize    int64
	KeepCachePrivate bool
	EtagValidate     float64 // etag_validate_pct, 0 to 1
	MaxUploadTime    time.Duration
	Slow             time.Duration
	AllowedHeaders   map[string]bool // in lower case

	// Replication.
	ReplicationServer               bool
	ReplicationConcurrency          int // 0 = any number
	ReplicationConcurrencyPerDevice int // 0 = any number
	ReplicationLockTimeout          time.Duration
	ReplicationFailureThreshold     int
	ReplicationFailureRatio         float64

	// Updates.
	NodeTimeout, ConnTimeout, ContainerUpdateTimeout time.Duration
	ExpiringObjectsAccount                           string
	ExpiringObjectsContainerDivisor                  int

	Warnings []string // what the operator should be told once
}

const defaultAllowedHeaders = "content-disposition, content-encoding, x-delete-at, x-object-manifest, x-static-large-object, " +
	"cache-control, content-language, expires, x-robots-tag"

// reader reads options until the first that is wrong.
type reader struct {
	*conf.Section
	err error
}

func get[T any](r *reader, read func(string, T) (T, error), key string, def T) T {
	value, err := read(key, def)
	if r.err == nil {
		r.err = err
	}
	return value
}

// or is Python's `conf.get(key) or def`.
func or[T any](r *reader, read func(string, T) (T, error), key string, def T) T {
	if r.Get(key, "") == "" {
		return def
	}
	return get(r, read, key, def)
}

// ReadConfig reads a conf file, or a folder of them, as Swift's object server does. What it
// would not start with is an error, and so is what this server can not do.
// Swift: obj/server.py, ObjectController; common/wsgi.py.
func ReadConfig(path string) (*Config, error) {
	stages, err := conf.Pipeline(path)
	if err != nil {
		return nil, err
	}
	app := stages[len(stages)-1]
	if !isProgram(app.Program, "object", "swift.obj.server:app_factory") {
		return nil, fmt.Errorf("%s: the pipeline ends with %q (%s), which is no object server", path, app.Name, app.Program)
	}
	// Swift starts the process as [app:object-server] says, whatever the pipeline names.
	process := app.Section
	if app.Name != "object-server" {
		if process, err = conf.App(path, "object-server"); err != nil {
			return nil, err
		}
	}
	c := &Config{Path: path, Section: process, Pipeline: stages[:len(stages)-1]}
	if err := c.refuse(process); err != nil {
		return nil, err
	}
	if err := c.readProcess(&reader{Section: process}); err != nil {
		return nil, err
	}
	return c, c.readApp(&reader{Section: app.Section})
}

// isProgram recognises a program of Swift's by its entry point or its factory.
func isProgram(program, entry, factory string) bool {
	return program == "egg:swift#"+entry || program == factory || program == "call:"+factory
}

// refuse finds what would be dangerous or wrong to pass over.
func (c *Config) refuse(s *conf.Section) error {
	if s.Has("cert_file") {
		return s.Errorf("cert_file", "absent: TLS is not served; end it before this server")
	}
	if proxied, _ := s.Bool("require_proxy_protocol", false); proxied {
		return s.Errorf("require_proxy_protocol", "no: PROXY lines are not understood")
	}
	if s.Get("log_custom_handlers", "") != "" {
		return s.Errorf("log_custom_handlers", "empty: Python functions can not be called")
	}
	return nil
}

func (c *Config) readProcess(r *reader) error {
	c.BindIP = r.Get("bind_ip", "0.0.0.0")
	c.SwiftDir = r.Get("swift_dir", "/etc/swift")
	c.RingIP = r.Get("ring_ip", c.BindIP)
	c.BindTimeout = get(r, r.Seconds, "bind_timeout", 30*time.Second)
	c.Backlog = get(r, r.Int, "backlog", 4096)
	c.ServersPerPort = or(r, r.NonNegativeInt, "servers_per_port", 0)
	c.RingCheckInterval = get(r, r.Seconds, "ring_check_interval", 15*time.Second)
	c.Workers = get(r, r.AutoInt, "workers", runtime.NumCPU())
	c.MaxClients = get(r, r.PositiveInt, "max_clients", 1024)
	c.ClientTimeout = or(r, r.Seconds, "client_timeout", 60*time.Second)
	c.StaleWorkerTimeout = get(r, r.Seconds, "stale_worker_timeout", 24*time.Hour)
	keepIdle := get(r, r.Int, "keep_idle", 600)
	if r.err == nil && (keepIdle <= 0 || keepIdle >= 1<<15-1) {
		return r.Errorf("keep_idle", "a number of seconds from 1 to 32766")
	}
	c.KeepIdle = time.Duration(keepIdle) * time.Second
	if c.ServersPerPort == 0 {
		if !r.Has("bind_port") {
			return r.Errorf("bind_port", "set")
		}
		port, ok := conf.ParseInt(r.Get("bind_port", ""))
		if !ok || port < 0 || port > math.MaxUint16 {
			return r.Errorf("bind_port", "a port from 0 to 65535")
		}
		c.BindPort = port
	}
	// Swift has this many in each of its processes.
	c.MaxClients *= max(1, c.Workers, c.ServersPerPort)
	return r.err
}

func (c *Config) readApp(r *reader) error {
	c.NodeTimeout = get(r, r.Seconds, "node_timeout", 3*time.Second)
	c.ConnTimeout = get(r, r.Seconds, "conn_timeout", 500*time.Millisecond)
	c.ContainerUpdateTimeout = get(r, r.Seconds, "container_update_timeout", time.Second)
	c.LogRequests = get(r, r.Bool, "log_requests", true)
	texts := func(string, bool) (bool, error) { return daemon.MasterTexts(r.Section) }
	c.MasterTexts = get(r, texts, daemon.OptLogTexts, false)
	c.MaxUploadTime = get(r, r.Seconds, "max_upload_time", 24*time.Hour)
	c.Slow = get(r, r.Seconds, "slow", 0)
	c.KeepCachePrivate = get(r, r.Bool, "keep_cache_private", false)
	c.KeepCacheSize = int64(get(r, r.Int, "keep_cache_size", 5<<20))
	c.EtagValidate = get(r, r.Percent, "etag_validate_pct", 100)
	c.AllowedHeaders = map[string]bool{}
	for _, name := range conf.List(strings.ToLower(r.Get("allowed_headers", defaultAllowedHeaders))) {
		if name != "content-length" && name != "deleted" && name != "etag" {
			c.AllowedHeaders[name] = true
		}
	}
	prefix := "."
	if own := r.Get("auto_create_account_prefix", ""); own != "" {
		c.warn("Option auto_create_account_prefix is deprecated. Configure auto_create_account_prefix under the " +
			"swift-constraints section of swift.conf. This option will be ignored in a future release.")
		prefix = own
	}
	account := r.Get("expiring_objects_account_name", "")
	if account == "" {
		account = "expiring_objects"
	}
	c.ExpiringObjectsAccount = prefix + account
	c.ExpiringObjectsContainerDivisor = or(r, r.PositiveInt, "expiring_objects_container_divisor", 86400)

	c.Devices = r.Get("devices", "/srv/node")
	c.MountCheck = get(r, r.Bool, "mount_check", true)
	c.ReclaimAge = get(r, r.Seconds, "reclaim_age", diskfile.DefaultReclaimAge)
	c.CommitWindow = get(r, r.Seconds, "commit_window", diskfile.DefaultCommitWindow)
	c.DisableFallocate = get(r, r.Bool, "disable_fallocate", false)
	c.FallocateReserve = r.Get("fallocate_reserve", "1%")
	c.IOEngine = r.Get("imping_io_engine", batch.Auto)
	c.BytesPerSync = int64(get(r, r.NonNegativeInt, "mb_per_sync", 512)) << 20

	c.ReplicationServer = get(r, r.Bool, "replication_server", true)
	c.ReplicationConcurrency = or(r, r.NonNegativeInt, "replication_concurrency", 4)
	c.perDevice(r)
	c.ReplicationLockTimeout = get(r, r.Seconds, "replication_lock_timeout", 15*time.Second)
	c.ReplicationFailureThreshold = or(r, r.Int, "replication_failure_threshold", 100)
	c.ReplicationFailureRatio = or(r, r.Float, "replication_failure_ratio", 1)

	c.anonymization = r.Get("log_anonymization_method", "md5")
	c.anonymizedSalt = r.Get("log_anonymization_salt", "")
	if r.err != nil {
		return r.err
	}
	if _, ok := hashes[strings.ToLower(c.anonymization)]; !ok {
		return r.Errorf("log_anonymization_method", "one of %s", strings.Join(hashNames(), ", "))
	}
	var err error
	if c.LogFormat, err = parseFormat(r.Get("log_format", defaultFormat)); err != nil {
		return r.Errorf("log_format", "a template of Swift's fields: %v", err)
	}
	return nil
}

// perDevice reads replication_concurrency_per_device and what it was called before.
func (c *Config) perDevice(r *reader) {
	c.ReplicationConcurrencyPerDevice = get(r, r.NonNegativeInt, "replication_concurrency_per_device", 1)
	if !r.Has("replication_one_per_device") {
		return
	}
	if r.Has("replication_concurrency_per_device") {
		c.warn("Option replication_one_per_device ignored as replication_concurrency_per_device is defined.")
		return
	}
	c.warn("Option replication_one_per_device is deprecated and will be removed in a future version. Update your " +
		"configuration to use option replication_concurrency_per_device.")
	if one := get(r, r.Bool, "replication_one_per_device", true); !one {
		c.ReplicationConcurrencyPerDevice = 0
	}
}

func (c *Config) warn(text string) { c.Warnings = append(c.Warnings, text) }

// shown tells the metadata that answers carry: users', Swift's own, and headers that the
// conf allows. Swift: common/request_helpers.py, is_sys_or_user_meta, is_object_transient_sysmeta.
func (c *Config) shown(key string) bool {
	if len(key) > 0 && key[0]|0x20 == 'x' {
		for _, prefix := range []string{"x-object-meta-", "x-object-sysmeta-", "x-object-transient-sysmeta-"} {
			if len(key) > len(prefix) && strings.EqualFold(key[:len(prefix)], prefix) {
				return true
			}
		}
	}
	return c.AllowedHeaders[strings.ToLower(key)]
}
