<?php
// A bare SabreDAV server: one directory on disk, HTTP basic authentication.
//
// nginx passes the settings in as FastCGI parameters:
//   ESPEJO_ROOT           the directory that is served
//   ESPEJO_USER           the one user name
//   ESPEJO_PASSWORD_FILE  a file that holds the password

// The library is older than this PHP, which finds much of it deprecated.
error_reporting(E_ALL & ~E_DEPRECATED);

require_once 'Sabre/autoload.php';

use Sabre\DAV;

class OneUser extends DAV\Auth\Backend\AbstractBasic
{
    protected function validateUserPass($username, $password)
    {
        $expected = trim(file_get_contents($_SERVER['ESPEJO_PASSWORD_FILE']));
        return hash_equals($_SERVER['ESPEJO_USER'], $username)
            && hash_equals($expected, $password);
    }
}

$server = new DAV\Server(new DAV\FS\Directory($_SERVER['ESPEJO_ROOT']));
$server->setBaseUri('/dav/');
$server->addPlugin(new DAV\Auth\Plugin(new OneUser(), 'espejo'));
$server->exec();
